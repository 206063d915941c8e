"""The operator console: three read-only pages for signed-in staff."""
