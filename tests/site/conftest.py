"""People and federations for tests of the site that need a device or a round."""

from collections.abc import Iterator

import pytest

from enclave.spare_process import SPARE
from tests.open_rounds import carol, dave, enclave_here, federation, running
from tests.operator_api.conftest import caller, everything
from tests.people import alice

__all__ = ["alice", "caller", "carol", "dave", "enclave_here", "everything", "federation", "running"]


@pytest.fixture(autouse=True)
def no_process_waits_behind() -> Iterator[None]:
    """End the processes that a task which a test ran keeps ready for the next round."""
    yield
    SPARE.drop()
