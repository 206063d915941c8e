"""HTTP to the server: problem details become refusals, passing failures are told apart from final ones."""

import json
import ssl
from collections.abc import Mapping
from typing import Any

import httpx

from qflare_protocol.encoding import decode, encode
from qflare_protocol.errors import CATALOGUE, TYPE_PREFIX, Refusal

CBOR = "application/cbor"
PROBLEM = "application/problem+json"
MAX_ANSWER_BYTES = 16 << 20
RETRY_STATUSES = frozenset({429, 500, 502, 503, 504})


class ServerUnreachable(Exception):  # noqa: N818 - it says what happened
    """The server did not answer, or asked for patience; try again in `retry_after_seconds` or later."""

    def __init__(self, reason: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class Http:
    """One keep-alive connection to one server."""

    def __init__(self, server: str, *, timeout_seconds: float = 30.0) -> None:
        # The system's authorities, or those of SSL_CERT_FILE; without trust_env httpx would look for neither.
        authorities = ssl.create_default_context()
        self._client = httpx.Client(
            base_url=server.rstrip("/"), timeout=timeout_seconds, trust_env=False, verify=authorities
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def send(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Send one request. Raises `ServerUnreachable` for network failures."""
        try:
            return self._client.request(method, path, content=body, headers=dict(headers or {}))
        except httpx.TransportError as error:
            raise ServerUnreachable(f"{type(error).__name__}: {error}") from error

    def post_cbor(self, path: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """Post a CBOR map and return the answered one.

        Raises `Refusal` for problem details, `ServerUnreachable` for what may pass by itself.
        """
        response = self.send("POST", path, encode(dict(message)), {"Content-Type": CBOR, "Accept": CBOR})
        raise_for_problem(
            response.status_code, response.headers.get("Content-Type", ""), response.content, response.headers
        )
        return answered_map(response.content)

    def download(self, path: str, *, maximum_bytes: int) -> bytes:
        """Return a body of at most `maximum_bytes`. Raises as `post_cbor`."""
        response = self.send("GET", path)
        raise_for_problem(
            response.status_code, response.headers.get("Content-Type", ""), response.content, response.headers
        )
        if len(response.content) > maximum_bytes:
            raise Refusal("message-too-large", "The server sent more bytes than it announced.")
        return response.content


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
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _retry_after(headers: Mapping[str, str]) -> float:
    value = headers.get("Retry-After", "")
    return min(float(value), 3600.0) if value.isascii() and value.isdigit() else 0.0
