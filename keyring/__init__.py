"""The server's own keys and secrets at rest."""
