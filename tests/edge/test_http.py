"""Answers of a server, honest or not: a refusal, something to try again, or bytes."""

import json
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.http import (
    CBOR,
    MAX_ANSWER_BYTES,
    MAX_UNSEALED_BYTES,
    PROBLEM,
    Http,
    ServerUnreachable,
    answered_map,
    raise_for_problem,
)
from qflare_protocol.encoding import encode
from qflare_protocol.errors import TYPE_PREFIX, Refusal


def client(handler):
    http = Http("http://server/")
    http.close()
    http._client = httpx.Client(base_url="http://server", transport=httpx.MockTransport(handler))
    return http


def download(http, size_bytes):
    """Download into a fresh file and return what is in it."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "blob"
        http.download_into(target, "/blob", size_bytes=size_bytes)
        return target.read_bytes()


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
    assert download(http, 5) == b"12345"
    with pytest.raises(Refusal, match="message-too-large"):
        download(http, 4)
    with pytest.raises(ServerUnreachable):
        download(client(lambda request: httpx.Response(404)), 4)


@pytest.mark.parametrize("status", [200, 403])
def test_an_unsealed_answer_of_more_than_7_mib_is_refused(status):
    http = client(lambda request: httpx.Response(status, content=bytes(MAX_UNSEALED_BYTES + 1)))
    with pytest.raises(Refusal, match="message-too-large"):
        http.post_cbor("/api/challenge", {})


def test_a_problem_nested_without_end_is_no_problem():
    nested = b"[" * 200_000
    http = client(lambda request: httpx.Response(403, headers={"Content-Type": PROBLEM}, content=nested))
    with pytest.raises(ServerUnreachable):
        http.post_cbor("/api/challenge", {})


def test_a_refusal_may_be_longer_than_what_was_announced():
    http = client(lambda request: httpx.Response(403, headers={"Content-Type": PROBLEM}, content=problem()))
    with pytest.raises(Refusal, match="token-used"):
        download(http, 4)


def test_a_sealed_answer_of_65_mib_is_read_and_a_byte_more_is_not():
    assert len(client(lambda request: httpx.Response(200, content=bytes(MAX_ANSWER_BYTES))).send("GET", "/").content)
    with pytest.raises(Refusal, match="message-too-large"):
        client(lambda request: httpx.Response(200, content=bytes(MAX_ANSWER_BYTES + 1))).send("GET", "/")


class Endless:
    """A server that sends a head and then parts of a body for ever, and counts what it got rid of."""

    def __init__(self, head: bytes, part: bytes) -> None:
        self.head, self.part, self.sent_bytes = head, part, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(20)
            connection.recv(1 << 16)
            try:
                connection.sendall(self.head + b"\r\n\r\n")
                while self.sent_bytes < 1 << 28:
                    connection.sendall(self.part)
                    self.sent_bytes += len(self.part)
            except OSError:
                return  # the client hung up, as it should

    @contextmanager
    def running(self) -> Iterator[Http]:
        """Serve one connection; at the end nothing is left behind."""
        self._thread.start()
        http = Http(self.url)
        try:
            yield http
        finally:
            http.close()
            self._thread.join()
            self._listener.close()


CHUNKED = b"Transfer-Encoding: chunked"
PART = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
HEADS = [
    (b"HTTP/1.1 200 OK\r\nConnection: close", bytes(1 << 16)),
    (b"HTTP/1.1 200 OK\r\n" + CHUNKED, PART),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000", bytes(1 << 16)),
    (b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/problem+json\r\n" + CHUNKED, PART),
]
SOCKET_BUFFERS = 16 << 20


@pytest.mark.parametrize(("head", "part"), HEADS, ids=["until closed", "chunked", "announced", "problem"])
def test_a_server_that_sends_for_ever_is_hung_up_on(head, part):
    calls = [
        lambda http: download(http, 1000),
        lambda http: http.post_cbor("/api/x", {}),
        lambda http: http.send("GET", "/health"),
    ]
    for call in calls:
        server = Endless(head, part)
        with server.running() as http, pytest.raises(Refusal, match="message-too-large"):
            call(http)
        assert server.sent_bytes <= MAX_ANSWER_BYTES + SOCKET_BUFFERS


def test_a_download_stops_at_the_announced_size_and_not_at_that_of_an_answer():
    seen = []

    def parts():
        for _ in range(100):
            seen.append(1)
            yield bytes(1000)

    http = client(lambda request: httpx.Response(200, content=parts()))
    with pytest.raises(Refusal, match="message-too-large"):
        download(http, 2500)
    assert len(seen) == 3


def test_a_blob_may_be_larger_than_an_answer():
    size = MAX_ANSWER_BYTES + 5
    http = client(lambda request: httpx.Response(200, content=bytes(size)))
    assert len(download(http, size)) == size
    with pytest.raises(Refusal, match="message-too-large"):
        http.send("GET", "/")


def test_a_compressed_answer_is_not_unpacked():
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close"
    with Endless(head, bytes(1 << 16)).running() as http, pytest.raises(ServerUnreachable, match="compressed"):
        download(http, 1000)


BLOB = bytes(range(256)) * 40


def ranged(request):
    """Answer as a server does that knows the blob by a tag of its own: the range asked for, under no condition."""
    asked = request.headers.get("Range")
    if asked is None or "If-Range" in request.headers:
        return httpx.Response(200, content=BLOB)
    begin = int(asked.removeprefix("bytes=").removesuffix("-"))
    stated = f"bytes {begin}-{len(BLOB) - 1}/{len(BLOB)}"
    return httpx.Response(206, headers={"Content-Range": stated}, content=BLOB[begin:])


@pytest.mark.parametrize("present", [0, 1, 5000, len(BLOB) - 1, len(BLOB), len(BLOB) + 1])
def test_a_download_goes_on_behind_the_bytes_that_are_there(tmp_path, present):
    target, asked = tmp_path / "blob", []
    target.write_bytes((BLOB + b"x")[:present])

    def answer(request):
        asked.append(request.headers.get("Range"))
        return ranged(request)

    client(answer).download_into(target, "/blob", size_bytes=len(BLOB))
    assert target.read_bytes() == BLOB
    assert asked == ([] if present == len(BLOB) else [f"bytes={present}-" if 0 < present < len(BLOB) else None])


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, content=BLOB),
        httpx.Response(206, content=BLOB),
        httpx.Response(206, headers={"Content-Range": f"bytes 0-{len(BLOB) - 1}/{len(BLOB)}"}, content=BLOB),
    ],
)
def test_an_answer_that_is_not_the_range_asked_for_begins_anew(tmp_path, answer):
    target = tmp_path / "blob"
    target.write_bytes(b"of another server" * 10)
    client(lambda request: answer).download_into(target, "/blob", size_bytes=len(BLOB))
    assert target.read_bytes() == BLOB


def test_what_came_before_a_cut_stays(tmp_path):
    target = tmp_path / "blob"

    def cut():
        yield BLOB[:3000]
        raise httpx.ReadError("cut")

    with pytest.raises(ServerUnreachable, match="cut"):
        client(lambda request: httpx.Response(200, content=cut())).download_into(target, "/blob", size_bytes=len(BLOB))
    assert target.read_bytes() == BLOB[:3000]
    with pytest.raises(ServerUnreachable, match="too early"):
        client(lambda request: httpx.Response(200, content=BLOB[:100])).download_into(
            target, "/blob", size_bytes=len(BLOB)
        )
    client(ranged).download_into(target, "/blob", size_bytes=len(BLOB))
    assert target.read_bytes() == BLOB


def test_a_refused_download_costs_nothing_of_what_is_there(tmp_path):
    target = tmp_path / "blob"
    target.write_bytes(BLOB[:10])
    http = client(lambda request: httpx.Response(503, headers={"Retry-After": "7"}))
    with pytest.raises(ServerUnreachable) as unreachable:
        http.download_into(target, "/blob", size_bytes=len(BLOB))
    assert unreachable.value.retry_after_seconds == 7
    assert target.read_bytes() == BLOB[:10]


def sent_elsewhere(seen, status=307, server="http://server", location="http://store/blob?signed=1"):
    """Return a client whose server sends it to a blob store."""

    def answer(request):
        seen.append((str(request.url), request.headers.get("Range")))
        if request.url.host == "server":
            return httpx.Response(status, headers={"Location": location})
        return ranged(request)

    http = client(answer)
    http._client.base_url = server
    return http


@pytest.mark.parametrize("status", [302, 307])
def test_a_blob_is_fetched_where_the_server_sends_for_it(status):
    seen = []
    assert download(sent_elsewhere(seen, status), len(BLOB)) == BLOB
    assert [url for url, _ in seen] == ["http://server/blob", "http://store/blob?signed=1"]


def test_what_is_there_of_a_blob_is_kept_at_another_address(tmp_path):
    seen, target, there = [], tmp_path / "blob", b"x" * 100
    target.write_bytes(there)
    http = sent_elsewhere(seen)
    http.download_into(target, "/blob", size_bytes=len(BLOB))
    assert target.read_bytes() == there + BLOB[100:]
    assert [asked for _, asked in seen] == ["bytes=100-", "bytes=100-"]


@pytest.mark.parametrize(
    "location", ["", "/blob", "http://store/blob", "ftp://store/blob", "https:///blob", "https://[", "file:///etc/x"]
)
def test_from_a_server_behind_tls_nobody_is_sent_to_a_place_without_it(location):
    seen = []
    with pytest.raises(ServerUnreachable, match="does not go"):
        download(sent_elsewhere(seen, server="https://server", location=location), len(BLOB))
    assert len(seen) == 1


def test_nobody_is_sent_further_than_once():
    http = client(lambda request: httpx.Response(307, headers={"Location": "http://store/blob"}))
    with pytest.raises(ServerUnreachable, match="307"):
        download(http, len(BLOB))


def test_no_other_request_is_sent_elsewhere():
    seen = []
    http = sent_elsewhere(seen)
    with pytest.raises(ServerUnreachable):
        http.post_cbor("/api/x", {})
    assert http.send("GET", "/health").status_code == 307
    assert all(url.startswith("http://server/") for url, _ in seen)
