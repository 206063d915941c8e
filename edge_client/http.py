"""HTTP to the server: problem details become refusals, passing failures are told apart from final ones."""

import json
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from edge_client.client_certificate import ClientCertificate
from edge_client.measured import BYTES, REQUEST_FAILURES
from qflare_protocol.encoding import decode, encode
from qflare_protocol.errors import CATALOGUE, TYPE_PREFIX, Refusal

CBOR = "application/cbor"
PROBLEM = "application/problem+json"
MAX_ANSWER_BYTES = 8 << 20  # the largest sealed answer is an assignment with the evidence of 99 ranges
MAX_UNSEALED_BYTES = 7 << 20  # with the longest identity succession (section 4)
SENT_ELSEWHERE = frozenset({302, 307})
RETRY_STATUSES = frozenset({429, 500, 502, 503, 504})


class ServerUnreachable(Exception):  # noqa: N818 - it says what happened
    """The server did not answer, or asked for patience; try again in `retry_after_seconds` or later."""

    def __init__(self, reason: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class Http:
    """One keep-alive connection to one server, which reads no more of a body than it has to."""

    def __init__(
        self, server: str, *, timeout_seconds: float = 30.0, certificate: ClientCertificate | None = None
    ) -> None:
        # The system's authorities, or those of SSL_CERT_FILE; without trust_env httpx would look for neither.
        authorities = ssl.create_default_context()
        if certificate is not None:
            certificate.load_into(authorities)
        self._client = httpx.Client(
            base_url=server.rstrip("/"),
            timeout=timeout_seconds,
            trust_env=False,
            verify=authorities,
            headers={"Accept-Encoding": "identity"},
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def send(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Send one request and return the answer, all of its body read.

        Raises `ServerUnreachable` for network failures and a compressed body, which nobody asked for
        and which could be of any size, `Refusal("message-too-large")` as soon as a body has more than
        8 MiB, a refusal more than 7 MiB.
        """
        try:
            with self._client.stream(method, path, content=body, headers=dict(headers or {})) as response:
                BYTES.add("sent", amount=len(body))
                content = self._bounded_body(response)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise _unreachable(error) from error
        return httpx.Response(response.status_code, headers=response.headers, content=content)

    def _bounded_body(self, response: httpx.Response) -> bytes:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise ServerUnreachable("The answer is compressed, which was not asked for.")
        maximum_bytes = MAX_ANSWER_BYTES if response.is_success else MAX_UNSEALED_BYTES
        body = bytearray()
        for part in response.iter_bytes():
            body += part
            BYTES.add("received", amount=len(part))
            if len(body) > maximum_bytes:
                raise Refusal("message-too-large", f"The server sent more than the {maximum_bytes} bytes expected.")
        return bytes(body)

    def post_cbor(self, path: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """Post a CBOR map and return the answered one.

        Raises `Refusal` for problem details, `ServerUnreachable` for what may pass by itself.
        """
        response = self.send("POST", path, encode(dict(message)), {"Content-Type": CBOR, "Accept": CBOR})
        if len(response.content) > MAX_UNSEALED_BYTES:
            raise Refusal("message-too-large", f"The server sent more than {MAX_UNSEALED_BYTES} bytes unsealed.")
        raise_for_problem(
            response.status_code, response.headers.get("Content-Type", ""), response.content, response.headers
        )
        return answered_map(response.content)

    @contextmanager
    def opened(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """Send a GET and give the answer with its body unread. Raises `ServerUnreachable`, also while it is read."""
        try:
            with self._client.stream("GET", path, headers=dict(headers)) as response:
                yield response
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise _unreachable(error) from error

    @contextmanager
    def _opened_blob(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """Open a blob, at the server's blob store where the server sends there; what it is its digest shows."""
        with self.opened(path, headers) as response:
            if response.status_code not in SENT_ELSEWHERE:
                yield response
                return
            address = self.checked_address(response.headers.get("Location", ""))
        with self.opened(address, headers) as response:
            yield response

    def checked_address(self, address: str) -> str:
        """Return an address at the server's blob store: https, or http where the server itself is spoken to so.

        Raises `ServerUnreachable`, as it would for a server that does not answer.
        """
        allowed = {"https", self._client.base_url.scheme}
        try:
            parts = urlsplit(address)
            fits = parts.scheme in allowed and bool(parts.hostname)
        except ValueError:
            fits = False
        if not fits:
            raise ServerUnreachable("The server names an address of a blob store where this device does not go.")
        return address

    def put_at_store(self, address: str, piece: bytes) -> None:
        """Put a piece at the server's blob store. Raises `ServerUnreachable` where it is not taken, for any reason."""
        answer = self.send("PUT", self.checked_address(address), piece)
        if not answer.is_success:
            raise ServerUnreachable(f"The blob store answered status {answer.status_code}.")

    def download_into(self, target: Path, path: str, *, size_bytes: int) -> None:
        """Make `target` the `size_bytes` bytes of a body, going on behind those that an earlier attempt left there.

        Nothing but the path says that they are of the same body (tags differ from one deliverer to the next), so
        it has to name its content by a digest, which the caller checks.
        What arrived before a cut stays for the next attempt. Raises `ServerUnreachable`,
        `Refusal("message-too-large")` as soon as the body is longer, and what `raise_for_problem` raises.
        """
        present = target.stat().st_size if target.exists() else 0
        if present == size_bytes:
            return
        resume = 0 < present < size_bytes
        headers = {"Range": f"bytes={present}-"} if resume else {}
        with self._opened_blob(path, headers) as response:
            if not response.is_success:
                content_type = response.headers.get("Content-Type", "")
                raise_for_problem(response.status_code, content_type, self._bounded_body(response), response.headers)
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise ServerUnreachable("The answer is compressed, which was not asked for.")
            stated = (response.status_code, response.headers.get("Content-Range", ""))
            resume = resume and stated == (206, f"bytes {present}-{size_bytes - 1}/{size_bytes}")
            _write_body(target, response, at=present if resume else 0, size_bytes=size_bytes)


def _unreachable(error: Exception) -> ServerUnreachable:
    REQUEST_FAILURES.add("network")
    return ServerUnreachable(f"{type(error).__name__}: {error}")


def _write_body(target: Path, response: httpx.Response, *, at: int, size_bytes: int) -> None:
    """Write a body as it comes, each part as soon as it is there.

    Raises `Refusal("message-too-large")` where it is longer, `ServerUnreachable` where it ends before its time.
    """
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.truncate(at)
        file.seek(at)
        for part in response.iter_bytes():
            if file.tell() + len(part) > size_bytes:
                raise Refusal("message-too-large", f"The server sent more than the {size_bytes} bytes expected.")
            file.write(part)
            BYTES.add("received", amount=len(part))
        if file.tell() < size_bytes:
            raise ServerUnreachable(f"The body ended {size_bytes - file.tell()} bytes too early.")


def answered_map(body: bytes) -> dict[str, Any]:
    """Return the CBOR map of an answer. Raises `Refusal("malformed-message")`."""
    answer = decode(body, what="answer", maximum_bytes=MAX_ANSWER_BYTES)
    if not isinstance(answer, dict):
        raise Refusal("malformed-message", "The server's answer is not a map.")
    return answer


def raise_for_problem(status: int, content_type: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Return for a success; raise `Refusal` or `ServerUnreachable` for everything else."""
    if 200 <= status < 300:
        return
    problem = _problem_of(content_type, body)
    if status in RETRY_STATUSES:
        REQUEST_FAILURES.add("unavailable")
        detail = str(problem.get("detail", f"status {status}"))
        raise ServerUnreachable(detail, _retry_after(headers))
    code = str(problem.get("type", "")).removeprefix(TYPE_PREFIX)
    if code not in CATALOGUE:
        raise ServerUnreachable(f"The server answered status {status} without problem details.")
    extensions = {key: value for key, value in problem.items() if key not in ("type", "title", "status", "detail")}
    raise Refusal(code, str(problem.get("detail", "")), **extensions)


def _problem_of(content_type: str, body: bytes) -> dict[str, Any]:
    if not content_type.startswith(PROBLEM):
        return {}
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return problem if isinstance(problem, dict) else {}


def _retry_after(headers: Mapping[str, str]) -> float:
    value = headers.get("Retry-After", "")
    return min(float(value), 3600.0) if value.isascii() and value.isdigit() else 0.0
