"""Backups of a whole site, sealed to keys that lie elsewhere, and their restoration on an empty one."""
