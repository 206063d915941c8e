"""Fixtures that hold for every test."""

from tests.audit_triggers import flush_empties_the_log_too

__all__ = ["flush_empties_the_log_too"]
