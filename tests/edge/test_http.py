"""Answers of a server, honest or not: a refusal, something to try again, or bytes."""

import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.http import CBOR, PROBLEM, Http, ServerUnreachable, answered_map, raise_for_problem
from qflare_protocol.encoding import encode
from qflare_protocol.errors import TYPE_PREFIX, Refusal


def client(handler):
    http = Http("http://server/")
    http.close()
    http._client = httpx.Client(base_url="http://server", transport=httpx.MockTransport(handler))
    return http


def problem(name="token-used", /, **members):
    return json.dumps({"type": TYPE_PREFIX + name, "title": "t", "status": 403, "detail": "d"} | members).encode()


def test_a_success_is_silent():
    assert raise_for_problem(200, CBOR, b"", {}) is None


def test_problem_details_become_the_refusal():
    with pytest.raises(Refusal) as caught:
        raise_for_problem(403, PROBLEM, problem(hint=1), {})
    assert (caught.value.code, caught.value.detail, caught.value.extensions) == ("token-used", "d", {"hint": 1})


def test_members_named_like_our_arguments_are_only_members():
    with pytest.raises(Refusal) as caught:
        raise_for_problem(403, PROBLEM, problem(code="x", self="y"), {})
    assert caught.value.extensions == {"code": "x", "self": "y"}


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize(
    ("stated", "seconds"),
    [("7", 7.0), ("", 0.0), ("soon", 0.0), ("-1", 0.0), ("9" * 400, 3600.0), ("\N{SUPERSCRIPT TWO}", 0.0)],
)
def test_what_may_pass_is_to_be_tried_again(status, stated, seconds):
    with pytest.raises(ServerUnreachable) as caught:
        raise_for_problem(status, PROBLEM, problem("rate-limited"), {"Retry-After": stated})
    assert caught.value.retry_after_seconds == seconds


@pytest.mark.parametrize("status", [301, 400, 404, 418])
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff", b'{"type": 5}', problem("no-such-code")])
def test_a_failure_that_is_not_of_this_server_may_pass(status, body):
    for content_type in ("text/html", PROBLEM):
        with pytest.raises(ServerUnreachable):
            raise_for_problem(status, content_type, body, {})


@given(st.integers(300, 599), st.binary(max_size=50), st.sampled_from([PROBLEM, "text/html", ""]))
def test_no_answer_breaks_the_client(status, body, content_type):
    with pytest.raises((Refusal, ServerUnreachable)):
        raise_for_problem(status, content_type, body, {})


@pytest.mark.parametrize("body", [b"", b"\xff", encode([]), encode(None), b'{"json": 1}'])
def test_an_answer_that_is_no_map_is_refused(body):
    with pytest.raises(Refusal, match="malformed-message"):
        answered_map(body)


def test_cbor_is_posted_and_read():
    def echo(request):
        assert request.headers["Content-Type"] == request.headers["Accept"] == CBOR
        return httpx.Response(200, content=request.content)

    assert client(echo).post_cbor("/api/x", {"a": 1}) == {"a": 1}


def test_a_server_that_is_away_is_unreachable():
    def away(request):
        raise httpx.ConnectError("refused")

    with pytest.raises(ServerUnreachable, match="ConnectError"):
        client(away).send("GET", "/")


def test_a_download_is_bounded():
    http = client(lambda request: httpx.Response(200, content=b"12345"))
    assert http.download("/blob", maximum_bytes=5) == b"12345"
    with pytest.raises(Refusal, match="message-too-large"):
        http.download("/blob", maximum_bytes=4)
    with pytest.raises(ServerUnreachable):
        client(lambda request: httpx.Response(404)).download("/blob", maximum_bytes=4)
