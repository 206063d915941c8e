"""The verbs of access, by subject."""
