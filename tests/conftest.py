"""Fixtures and ids that hold for every test."""

from typing import Any

import pytest

from tests.audit_triggers import flush_empties_the_log_too

__all__ = ["flush_empties_the_log_too"]


@pytest.fixture(autouse=True)
def fresh_counters(request: pytest.FixtureRequest) -> None:
    """Let no test be refused, or its refusals go unrecorded, for what another has sent from the same address.

    Nor let it be told to wait because another had a large fleet.
    """
    if request.node.get_closest_marker("django_db") or "db" in request.fixturenames:
        from django.core.cache import caches  # tests of the pure packages run where no Django is set up

        from training.services.presence import FLEET_SIZE

        caches["ratelimit"].clear()
        FLEET_SIZE.begin_anew()


def pytest_make_parametrize_id(config: Any, val: object, argname: str) -> str | None:
    """Name bytes and sets by their argument: their content may be random, and workers must agree on the ids."""
    return argname if isinstance(val, bytes | set | frozenset) else None
