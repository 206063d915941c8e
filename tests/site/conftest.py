"""People and federations for tests of the site that need a device or a round."""

from tests.open_rounds import carol, dave, enclave_here, federation, running
from tests.operator_api.conftest import caller, everything
from tests.people import alice

__all__ = ["alice", "caller", "carol", "dave", "enclave_here", "everything", "federation", "running"]
