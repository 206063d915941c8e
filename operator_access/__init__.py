"""Who may do what: roles, the second factor of a sign-in, and what two persons have to agree on."""
