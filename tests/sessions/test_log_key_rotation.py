"""A device that pins an earlier key of the server's log follows to the current one."""

import pytest

from audit.services import rotate_log_key
from keyring.services import server_verifier
from tests.people import OPERATOR, Person


@pytest.mark.parametrize("times", [1, 3])
def test_a_device_follows_and_pins_the_new_log_key(alice: Person, times: int) -> None:
    session = alice.session()
    session.post("/api/work", {})
    for _ in range(times):
        rotate_log_key(reason="yearly", actor=OPERATOR)
    session = alice.session()
    session.post("/api/work", {})
    assert alice.identity.log_key == server_verifier("log").public
