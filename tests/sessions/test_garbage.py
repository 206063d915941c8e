"""Garbage at every endpoint: refused with a problem, never a server error, and nothing changes."""

import cbor2
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from edge_client.http import CBOR, PROBLEM
from qflare_protocol.encoding import encode
from qflare_protocol.errors import CATALOGUE, TYPE_PREFIX
from qflare_protocol.sealed_request import SEALED_MEDIA_TYPE
from tests.people import nothing_changed, opened

pytestmark = pytest.mark.django_db

UNSEALED = ("/api/enroll", "/api/challenge", "/api/authenticate")
SEALED = ("/api/work", "/api/submit_model", "/api/session/close")
GETS = ("/api/global_model", "/api/blobs/x", "/api/enclave/status")
CONTENT_TYPES = (
    CBOR,
    SEALED_MEDIA_TYPE,
    "application/json",
    "text/plain",
    "multipart/form-data; boundary=x",
    "",
    "/",
    ";",
)
EXAMPLES = hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

leaves = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.binary(max_size=80)
    | st.sampled_from([bytes(16), bytes(32), bytes(64), bytes(1568), bytes(2420)]) | st.text(max_size=20)
)  # fmt: skip
names = st.sampled_from(["begin", "request", "attempt", "sealed_token", "session_id", "ciphertext", "confirmation"])
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | st.text(max_size=4), inner, max_size=4)
)
bodies = st.binary(max_size=300) | values.map(cbor2.dumps) | values.map(encode)
signed = st.lists(st.binary(max_size=40) | values, min_size=4, max_size=4).map(encode)
headers = st.dictionaries(
    st.sampled_from(["Accept", "Authorization", "QFLARE-Content-Type", "QFLARE-Salt", "Content-Length"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40)
    | st.sampled_from(["QFLARE1 x", "0", "70000"]),
    max_size=2,
)


def assert_turned_away(answer):
    assert 400 <= answer.status_code < 500, answer.content
    assert answer.headers["Content-Type"] == PROBLEM
    assert answer.json()["type"].removeprefix(TYPE_PREFIX) in CATALOGUE


@pytest.mark.parametrize("path", UNSEALED + SEALED)
def test_garbage_posted_is_refused(mallory, path):
    @EXAMPLES
    @given(bodies, st.sampled_from(CONTENT_TYPES), headers)
    def post(body, content_type, more):
        assert_turned_away(mallory.http.send("POST", path, body, {"Content-Type": content_type, **more}))

    with nothing_changed():
        post()


@pytest.mark.parametrize("member", ["begin", "request"])
def test_garbage_in_a_signed_structure_is_refused(mallory, member):
    @EXAMPLES
    @given(signed)
    def post(structure):
        path = "/api/enroll" if member == "begin" else "/api/challenge"
        assert_turned_away(mallory.post_cbor(path, {member: structure}))

    with nothing_changed():
        post()


@pytest.mark.parametrize("path", SEALED)
def test_garbage_sealed_in_a_session_is_refused(alice, path, settings):
    line = alice.line()
    settings.QFLARE_SESSION_LIMITS = {"requests": 10**6}  # raised behind the device's back, which would refuse it

    @EXAMPLES
    @given(
        bodies.filter(lambda body: body != encode({})),
        st.sampled_from([CBOR, "application/vnd.qflare.update", "", "x"]),
    )
    def post(body, content_type):
        request = line.seal(path, body=body, content_type=content_type)
        answer = opened(request, line.send(request, **{"Content-Type": SEALED_MEDIA_TYPE}))
        assert 400 <= answer.status < 500
        assert answer.problem["type"].removeprefix(TYPE_PREFIX) in CATALOGUE

    with nothing_changed():
        post()


@pytest.mark.parametrize("path", GETS + UNSEALED + SEALED)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "BREW"])
def test_any_method_is_answered_and_changes_nothing(mallory, path, method):
    with nothing_changed():
        answer = mallory.http.send(method, path)
    assert answer.status_code < 500


@pytest.mark.parametrize("path", GETS)
def test_garbage_in_a_query_is_answered(mallory, path):
    @EXAMPLES
    @given(st.text("abc0123&=%?/\0\xe9 ", max_size=30))
    def get(query):
        assert mallory.http.send("GET", f"{path}?{query}").status_code < 500

    with nothing_changed():
        get()
