"""Fixtures and ids that hold for every test."""

from typing import Any

from tests.audit_triggers import flush_empties_the_log_too

__all__ = ["flush_empties_the_log_too"]


def pytest_make_parametrize_id(config: Any, val: object, argname: str) -> str | None:
    """Name bytes and sets by their argument: their content may be random, and workers must agree on the ids."""
    return argname if isinstance(val, bytes | set | frozenset) else None
