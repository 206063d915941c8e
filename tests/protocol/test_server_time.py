"""The server's signed time: for one message, by one key."""

import pytest

from qflare_protocol import pqc
from qflare_protocol.cose import Signer, sign1
from qflare_protocol.encoding import digest
from qflare_protocol.errors import Refusal
from qflare_protocol.server_time import read_server_time, request_reference, sign_server_time

NOW = 1_772_366_400.5


def new_signer():
    pair = pqc.signature("ML-DSA-44").generate()
    return Signer("ML-DSA-44", pair.private, pair.public)


SERVER, OTHER_SERVER = new_signer(), new_signer()


def test_the_signed_time_comes_back_to_the_millisecond():
    signed = sign_server_time(SERVER, bound_to=b"M1", now=NOW)
    assert read_server_time(SERVER.verifier, signed, bound_to=b"M1") == NOW


@pytest.mark.parametrize(("server", "bound_to"), [(SERVER, b"M1 again"), (OTHER_SERVER, b"M1")])
def test_a_time_for_another_message_or_by_another_key_is_refused(server, bound_to):
    signed = sign_server_time(SERVER, bound_to=b"M1", now=NOW)
    with pytest.raises(Refusal, match="invalid-signature"):
        read_server_time(server.verifier, signed, bound_to=bound_to)


@pytest.mark.parametrize("payload", [{}, {"server_time": -1}, {"server_time": 1.5}, {"server_time": 1, "zone": "UTC"}])
def test_a_signed_time_out_of_form_is_refused(payload):
    signed = sign1(SERVER, payload, purpose="server time", bound_to=digest("refused", b"M1"))
    with pytest.raises(Refusal, match="malformed-message"):
        read_server_time(SERVER.verifier, signed, bound_to=b"M1")


def test_each_request_has_a_reference_of_its_own():
    references = {
        request_reference(session, epoch, sequence)
        for session in (b"s" * 16, b"t" * 16) for epoch in (1, 2) for sequence in (1, 2)
    }  # fmt: skip
    assert len(references) == 8
