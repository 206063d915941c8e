"""The operator API over HTTP: refusals by their problem details, lists page by page."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

TYPE_PREFIX = "urn:qflare:problem:"
PREFIX = "/api/operator/"


class Refused(Exception):  # noqa: N818 - it says what happened
    """The server refused, and said why; or what was asked makes no sense before it is asked."""


class Unreachable(Exception):  # noqa: N818 - it says what happened
    """The server did not answer, or not as this API answers."""


def api_key(environment: Mapping[str, str] = os.environ) -> str:
    """Return the API key of QFLARE_API_KEY, or of the file that QFLARE_API_KEY_FILE names. Raises `Refused`."""
    if "QFLARE_API_KEY" in environment:
        return environment["QFLARE_API_KEY"].strip()
    if "QFLARE_API_KEY_FILE" not in environment:
        raise Refused("Set QFLARE_API_KEY_FILE to a file with an API key (manage.py create_api_key makes one).")
    try:
        return Path(environment["QFLARE_API_KEY_FILE"]).read_text().strip()
    except OSError as error:
        raise Refused(f"The file of QFLARE_API_KEY_FILE cannot be read: {error.strerror}.") from error


class Server:
    """One site, called under one key. Every method raises `Refused` and `Unreachable`."""

    def __init__(self, url: str, key: str, transport: httpx.BaseTransport | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
        self._client = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=60, transport=transport)

    def get(self, path: str, **narrowed: Any) -> Any:
        """Return what a GET answers."""
        return self._send("GET", PREFIX + path, params=_stated(narrowed))

    def change(self, method: str, path: str, body: Mapping[str, Any]) -> Any:
        """Return what a POST or PUT of these members answers."""
        return self._send(method, PREFIX + path, json=_stated(body))

    def rows(self, path: str, *, at_most: int | None = None, **narrowed: Any) -> Iterator[dict[str, Any]]:
        """Yield the rows of a list, page by page, no more than `at_most`."""
        page = self.get(path, limit=min(at_most or 1000, 1000), **narrowed)
        left = at_most
        while True:
            for row in page["results"]:
                if left == 0:
                    return
                yield row
                left = None if left is None else left - 1
            if not page["next"] or left == 0:
                return
            page = self._send("GET", page["next"])

    def only(self, path: str, what: str, **narrowed: Any) -> dict[str, Any]:
        """Return the one row that is narrowed down to."""
        rows = list(self.rows(path, at_most=2, **narrowed))
        if len(rows) != 1:
            described = ", ".join(f"{name} {value}" for name, value in narrowed.items())
            raise Refused(f"There is no {what} with {described}.")
        return rows[0]

    def _send(self, method: str, address: str, **content: Any) -> Any:
        try:
            answer = self._client.request(method, address, **content)
        except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from error
        if answer.is_success:
            return _json(answer)
        raise _failure(answer)


def _stated(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise Unreachable(f"Status {answer.status_code}, but no JSON: is this the address of a QFLARE?") from error


def _failure(answer: httpx.Response) -> Exception:
    if answer.headers.get("Content-Type", "") != "application/problem+json":
        return Unreachable(f"Status {answer.status_code} without problem details: is this the address of a QFLARE?")
    problem = _json(answer)
    code = str(problem.get("type", "")).removeprefix(TYPE_PREFIX)
    wrong = "".join(f" {name}: {' '.join(map(str, why))}" for name, why in problem.get("errors", {}).items())
    return Refused(f"{code}: {problem.get('detail', '')}{wrong}")
