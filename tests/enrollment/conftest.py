"""The people of the tests."""

from tests.people import alice, bob, mallory, raised_rates

__all__ = ["alice", "bob", "mallory", "raised_rates"]
