"""The people of the tests and the rounds they take part in."""

from tests.open_rounds import carol, dave, enclave_here, federation, running
from tests.people import alice, bob, mallory, raised_rates

__all__ = ["alice", "bob", "carol", "dave", "enclave_here", "federation", "mallory", "raised_rates", "running"]
