"""Fixtures of the people and of an open round, for tests of a device against the real server code."""

from tests.open_rounds import carol, dave, enclave_here, federation, running
from tests.people import alice, bob, mallory, raised_rates

__all__ = ["alice", "bob", "carol", "dave", "enclave_here", "federation", "mallory", "raised_rates", "running"]
