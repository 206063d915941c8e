"""The people of the tests: alice is enrolled and active, bob is revoked, mallory is a stranger with keys of her own.

They speak through the real client code of `edge_client`, over Django's test client in place of a socket.
A `Line` is a session held by hand, for requests that no honest client would send.
"""

import io
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.apps import apps
from django.test import Client
from django.utils import timezone

from audit.models import Event
from devices.models import Device
from edge_client.device_state import DeviceStateFile
from edge_client.enrolment import enroll_device
from edge_client.http import CBOR, PROBLEM, Http, ServerUnreachable
from edge_client.identity_keeper import IdentityKeeper
from edge_client.key_store import DeviceIdentity
from edge_client.session import DeviceSession
from enrollment.services import issue_token
from keyring.services import server_verifier
from qflare_protocol.device_keys import generate_device_keypair
from qflare_protocol.encoding import decode, encode
from qflare_protocol.epochs import EpochChain, bucket_of
from qflare_protocol.errors import CATALOGUE, TYPE_PREFIX
from qflare_protocol.handshake import ClientHandshake
from qflare_protocol.sealed_request import (
    CONTENT_TYPE_HEADER,
    SALT_HEADER,
    SEALED_MEDIA_TYPE,
    Authorization,
    MessageNumber,
    SealedAnswer,
    Target,
    new_salt,
    open_answer,
    seal_request,
)
from qflare_protocol.suites import DEFAULT_SUITE
from sessions.services import revoke_device
from training.blob_store.configured import blob_store
from training.blob_store.folder import FolderStore

OPERATOR = "operator:root"
SERVER = "http://testserver"
APPS = ("devices", "enrollment", "device_sessions", "training", "enclave", "keyring", "monitor")


class DjangoHttp(Http):
    """The client's connection, led straight into the server; a server error surfaces as its exception."""

    def __init__(self) -> None:
        self._django = Client()

    def close(self) -> None:
        pass

    def send(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        headers = {"Content-Length": str(len(body)), **(headers or {})}
        if body and "Content-Type" not in headers:
            headers["Content-Type"] = ""
        answer = self._django.generic(method, path, body, headers=headers, **{"wsgi.input": io.BytesIO(body)})
        content = b"".join(answer.streaming_content) if answer.streaming else answer.content
        return httpx.Response(answer.status_code, headers=dict(answer.headers), content=content)

    @contextmanager
    def opened(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        if path.startswith("http"):  # at the blob store, which is a server of its own
            yield httpx.get(path, headers=dict(headers))
        else:
            yield self.send("GET", path, b"", headers)

    def checked_address(self, address: str) -> str:
        return address

    def put_at_store(self, address: str, piece: bytes) -> None:
        if not httpx.put(address, content=piece).is_success:
            raise ServerUnreachable("The blob store does not take it.")


@dataclass
class Person:
    """Somebody with a device: the identity it holds and its way to the server."""

    name: str
    keeper: IdentityKeeper
    home: Path
    http: DjangoHttp = field(default_factory=DjangoHttp)

    @property
    def identity(self) -> DeviceIdentity:
        """What the device holds now."""
        return self.keeper.identity

    @property
    def device(self) -> Device:
        """The device's row, fresh from the database."""
        return Device.objects.get(name=self.name)

    def session(self, **options: Any) -> DeviceSession:
        """Return a session of the real client."""
        return DeviceSession(self.http, self.keeper, DeviceStateFile(self.home), **options)

    def handshake(self, **changes: Any) -> ClientHandshake:
        """Begin a handshake; `changes` may give another device id, time or checkpoint."""
        members: dict[str, Any] = {"device_id": self.identity.device_id, "checkpoint": None}
        members["now"] = timezone.now().timestamp()
        members |= changes
        device_id = members.pop("device_id")
        return ClientHandshake(device_id, self.identity.keys, self.identity.identity, **members)

    def line(self) -> "Line":
        """Shake hands by hand."""
        handshake = self.handshake()
        answer = cbor(self.post_cbor("/api/challenge", {"request": handshake.request}))
        confirmed = self.post_cbor("/api/authenticate", third_message(handshake, **answer))
        established = handshake.establish(cbor(confirmed)["confirmation"])
        return Line(self.http, established.session_id, established.chain)

    def post_cbor(self, path: str, message: Any) -> httpx.Response:
        """Post CBOR and return the answer, whatever it is."""
        return self.http.send("POST", path, encode(message), {"Content-Type": CBOR})


def third_message(handshake: ClientHandshake, answer: bytes, succession: Sequence[bytes] = ()) -> dict[str, bytes]:
    """Return M3 to an M2."""
    session_id, ciphertext, confirmation = handshake.respond(answer, succession)
    return {"session_id": session_id, "ciphertext": ciphertext, "confirmation": confirmation}


@dataclass(frozen=True)
class Sealed:
    """A sealed request as it goes out; change its members to tamper with it."""

    authorization: Authorization
    target: Target
    body: bytes
    key: bytes

    def headers(self) -> dict[str, str]:
        headers = {"Authorization": self.authorization.to_header(), "Content-Length": str(self.target.length)}
        if self.target.content_type:
            headers[CONTENT_TYPE_HEADER] = self.target.content_type
        return headers | ({"Content-Type": SEALED_MEDIA_TYPE} if self.target.length else {})

    def numbered(self, **changes: Any) -> "Sealed":
        """Return it with another message number, which its tag does not cover."""
        number = replace(self.authorization.number, **changes)
        return replace(self, authorization=replace(self.authorization, number=number))

    def aimed(self, **changes: Any) -> "Sealed":
        """Return it with another target, which its tag does not cover."""
        return replace(self, target=replace(self.target, **changes))


@dataclass
class Line:
    """An open session held by hand."""

    http: DjangoHttp
    session_id: bytes
    chain: EpochChain
    sequence: int = 0

    def seal(self, path: str = "/api/work", message: Any = None, **changes: Any) -> Sealed:
        """Seal a POST of a CBOR map; `changes`: method, body, content_type, sequence, epoch, chain."""
        self.sequence += 1
        body = changes.get("body", encode({} if message is None else message))
        target = Target(changes.get("method", "POST"), path, changes.get("content_type", CBOR), len(body))
        epoch = changes.get("epoch", bucket_of(timezone.now().timestamp()))
        chain = changes.get("chain", self.chain)
        chain = chain.advance(max(epoch, chain.epoch), now=0)
        generation = changes.get("generation", chain.generation)
        key = chain.traffic_key(epoch, generation, now=0)
        sequence = changes.get("sequence", self.sequence)
        number = MessageNumber(self.session_id, generation, epoch, sequence, new_salt())
        authorization, sealed = seal_request(key, number, target, body)
        return Sealed(authorization, target, sealed, key)

    def send(self, request: Sealed, **headers: str) -> httpx.Response:
        """Send a sealed request; `headers` override its own."""
        return self.http.send(request.target.method, request.target.path, request.body, request.headers() | headers)

    def ask(self, *arguments: Any, **changes: Any) -> "Opened":
        """Seal, send and open the answer."""
        request = self.seal(*arguments, **changes)
        return opened(request, self.send(request))


@dataclass(frozen=True)
class Opened:
    """A sealed answer, opened."""

    status: int
    content_type: str
    plaintext: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The problem details, once they are seen to be some."""
        assert self.content_type == PROBLEM
        return json.loads(self.plaintext)

    @property
    def message(self) -> dict[str, Any]:
        """The CBOR map of a success."""
        assert (self.status, self.content_type) == (200, CBOR), self.plaintext
        return decode(self.plaintext, what="answer")


def opened(request: Sealed, response: httpx.Response) -> Opened:
    """Open the answer to a sealed request."""
    assert response.headers["Content-Type"] == SEALED_MEDIA_TYPE, response.content
    content_type = response.headers[CONTENT_TYPE_HEADER]
    salt = bytes.fromhex(response.headers[SALT_HEADER])
    answer = SealedAnswer(response.status_code, content_type, salt, response.content)
    return Opened(answer.status, content_type, open_answer(request.key, request.authorization, answer))


def cbor(response: httpx.Response) -> dict[str, Any]:
    """Return the CBOR map of a success."""
    assert response.status_code == 200, response.content
    return decode(response.content, what="answer")


def headers_of(answer: httpx.Response) -> dict[str, str]:
    """Return an answer's headers but for the id of its request, which is of no two requests the same."""
    return {name: text for name, text in answer.headers.items() if name.lower() != "x-request-id"}


def assert_refused(answer: httpx.Response | Opened, code: str) -> dict[str, Any]:
    """Assert that an answer is the problem of that code with its catalogue status, and return it."""
    if isinstance(answer, Opened):
        problem, status = answer.problem, answer.status
    else:
        assert answer.headers["Content-Type"] == PROBLEM, (answer.status_code, answer.content)
        problem, status = answer.json(), answer.status_code
    assert problem["type"] == TYPE_PREFIX + code, problem
    assert problem["status"] == status == CATALOGUE[code].status
    return problem


@contextmanager
def nothing_changed(*events: str) -> Iterator[None]:
    """Assert that what happens inside changes no row and no blob, and records exactly these kinds of event."""
    rows, blobs, last = _rows(), _blobs(), Event.objects.count()
    yield
    assert list(Event.objects.order_by("id").values_list("kind", flat=True)[last:]) == list(events)
    assert _blobs() == blobs
    changed = [table for table, content in _rows().items() if content != rows[table]]
    assert not changed, f"rows changed in {changed}"


def _rows() -> dict[str, list[Any]]:
    models = [model for label in APPS for model in apps.get_app_config(label).get_models()]
    return {model.__name__: list(model.objects.order_by("pk").values_list()) for model in models}


def _blobs() -> set[str]:
    store = blob_store()
    if isinstance(store, FolderStore):
        return {str(path) for path in store.folder.rglob("*") if path.is_file()}
    return {seen.name for seen in store.bucket.listed("")}  # type: ignore[attr-defined]


def enrol(name: str, home: Path, *, group: str = "") -> Person:
    """Enrol a device with a token of its own."""
    token = issue_token(actor=OPERATOR, now=timezone.now(), device_name=name, group=group)
    return Person(name, kept(enroll_device(DjangoHttp(), SERVER, token.text, name)), home)


def kept(identity: DeviceIdentity) -> IdentityKeeper:
    """Keep an identity in memory alone."""
    return IdentityKeeper(identity, lambda changed: None)


@pytest.fixture(autouse=True)
def raised_rates(settings: Any) -> None:
    """Tests send in a second what a device sends in an hour: the rate limits are raised for them."""
    settings.QFLARE_RATES = dict.fromkeys(settings.QFLARE_RATES, "100000/m")


@pytest.fixture
def alice(db: None, tmp_path: Path) -> Person:
    """An enrolled, active device."""
    return enrol("alice", tmp_path / "alice")


@pytest.fixture
def bob(db: None, tmp_path: Path) -> Person:
    """A device that was enrolled and is revoked."""
    person = enrol("bob", tmp_path / "bob")
    revoke_device(person.device.id, reason="lost", actor=OPERATOR, now=timezone.now())
    return person


@pytest.fixture
def mallory(db: None, tmp_path: Path) -> Person:
    """A stranger: keys of her own, a device id nobody issued, and the server's public identity."""
    keys = generate_device_keypair(DEFAULT_SUITE)
    log_key = server_verifier("log").public
    identity = DeviceIdentity(
        SERVER, uuid.uuid4().bytes, "mallory", keys, server_verifier("identity"), "nobody/log", log_key
    )
    return Person("mallory", kept(identity), tmp_path / "mallory")
