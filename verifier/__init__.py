"""The offline verifier of an exported log: one file that needs Python and `cryptography` and nothing of this house."""
