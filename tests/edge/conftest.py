"""Fixtures of the people and of an open round, for tests of a device against the real server code."""

from collections.abc import Iterator

import pytest
import structlog

from tests.open_rounds import carol, dave, enclave_here, federation, running
from tests.people import alice, bob, mallory, raised_rates

__all__ = ["alice", "bob", "carol", "dave", "enclave_here", "federation", "mallory", "raised_rates", "running"]


@pytest.fixture(autouse=True)
def log_configuration_stays() -> Iterator[None]:
    """Undo what the command line sets for its own process, which here is everybody's.

    No logger is cached meanwhile: it would write to that test's standard error for ever.
    """
    before = structlog.get_config()
    structlog.configure(cache_logger_on_first_use=False)
    yield
    structlog.configure(**before)
