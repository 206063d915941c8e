"""The people of the tests and the rounds they take part in."""

from tests.open_rounds import carol, dave, enclave_here, federation, running
from tests.people import alice, bob, mallory, raised_rates
from tests.training.whole_rounds import destroyed_round_keys, fleet

__all__ = [
    "alice", "bob", "carol", "dave", "destroyed_round_keys", "enclave_here", "federation", "fleet", "mallory",
    "raised_rates", "running",
]  # fmt: skip
