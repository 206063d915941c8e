"""The device against a server that lies about its log or about the time."""

import base64
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edge_client.device_state import DeviceStateFile
from edge_client.handshaking import Handshaker
from edge_client.http import Http
from edge_client.identity_keeper import IdentityKeeper
from edge_client.key_store import DeviceIdentity
from qflare_protocol import pqc
from qflare_protocol.checkpoint import Checkpoint, sign_checkpoint
from qflare_protocol.cose import Signer
from qflare_protocol.device_keys import RegisteredKeys, generate_device_keypair
from qflare_protocol.epochs import SessionLimits, bucket_of
from qflare_protocol.errors import Refusal
from qflare_protocol.handshake import (
    PendingHandshake,
    SeenCheckpoint,
    Terms,
    accept_response,
    answer_challenge,
    read_challenge_request,
    verify_challenge_request,
)
from qflare_protocol.log_cosignature import verify_cosignature
from qflare_protocol.merkle import CompactTree, consistency_proof, leaf_hash
from qflare_protocol.server_time import sign_server_time

ORIGIN = "qflare/example"
SUITE, DEVICE_ID = "QF1-K1024", b"d" * 16
KEYS = generate_device_keypair(SUITE)


def new_signer() -> Signer:
    pair = pqc.signature("ML-DSA-44").generate()
    return Signer("ML-DSA-44", pair.private, pair.public)


SERVER, LOG, STRANGER = new_signer(), new_signer(), new_signer()
LEAVES = [leaf_hash(bytes([number])) for number in range(6)]


def root_of(leaves: list[bytes]) -> bytes:
    tree = CompactTree()
    for leaf in leaves:
        tree.append(leaf)
    return tree.root()


def proof_of(size1: int, size2: int) -> list[bytes]:
    tree, nodes = CompactTree(), {}
    for leaf in LEAVES[:size2]:
        nodes |= {(node.level, node.index): node.hash for node in tree.append(leaf)}
    return consistency_proof(size1, size2, lambda level, index: nodes[level, index])


def note_of(size: int, *, signer: Signer = LOG, origin: str = ORIGIN, root: bytes = b"") -> str:
    return sign_checkpoint(signer, Checkpoint(origin, size, root or root_of(LEAVES[:size])), int(time.time()))


class ScriptedServer(Http):
    """The server's half of the handshake by the real functions, with a log and a clock of the test's choice."""

    def __init__(self, note: str | None = None, proof: list[bytes] | None = None) -> None:
        self._note, self._proof = note, proof or []
        self._pending: PendingHandshake | None = None
        self.skew_answer: Callable[[bytes], Mapping[str, Any]] | None = None
        self.buckets: list[int] = []

    def post_cbor(self, path: str, message: Mapping[str, Any]) -> dict[str, Any]:
        if path == "/api/authenticate":
            assert self._pending
            return {"confirmation": accept_response(self._pending, message["ciphertext"], message["confirmation"])[0]}
        return self._challenge(message["request"])

    def _challenge(self, m1: bytes) -> dict[str, Any]:
        request, registered = read_challenge_request(m1), RegisteredKeys(SUITE, KEYS.kem.public, KEYS.signer.public)
        verify_challenge_request(m1, request, registered)
        self.buckets.append(request.bucket)
        if self.skew_answer and abs(request.bucket - bucket_of(time.time())) > 1:
            raise Refusal("clock-skew", "The device clock is off.", **self.skew_answer(m1))
        terms = Terms(b"s" * 16, time.time(), SessionLimits(), self._note, self._proof, KEYS.signer.fingerprint)
        ephemeral = pqc.kem("ML-KEM-1024").generate()
        answer, self._pending = answer_challenge(m1, request, registered, terms, SERVER, ephemeral=ephemeral)
        return {"answer": answer, "succession": []}


def handshaker(server: Http, home: Path, clock: Callable[[], float] = time.time) -> Handshaker:
    identity = DeviceIdentity(
        server="http://testserver", device_id=DEVICE_ID, name="alice", keys=KEYS, identity=SERVER.verifier,
        log_origin=ORIGIN, log_key=LOG.public,
    )  # fmt: skip
    return Handshaker(server, IdentityKeeper(identity, lambda _identity: None), DeviceStateFile(home), clock)


def remember(home: Path, size: int) -> None:
    DeviceStateFile(home).remember(checkpoint=SeenCheckpoint(size, root_of(LEAVES[:size])))


def seen_after(home: Path) -> SeenCheckpoint | None:
    return DeviceStateFile(home).state.checkpoint


def test_a_device_that_has_seen_nothing_remembers_the_first_checkpoint(tmp_path: Path) -> None:
    handshaker(ScriptedServer(note_of(4)), tmp_path).shake_hands()
    assert seen_after(tmp_path) == SeenCheckpoint(4, root_of(LEAVES[:4]))


def test_a_log_that_has_grown_is_proved_and_remembered(tmp_path: Path) -> None:
    remember(tmp_path, 3)
    handshaker(ScriptedServer(note_of(6), proof_of(3, 6)), tmp_path).shake_hands()
    assert seen_after(tmp_path) == SeenCheckpoint(6, root_of(LEAVES))


LIES = {
    "no checkpoint although the device has seen one": (None, [], "log-inconsistent"),
    "a log that was cut short": (note_of(2), [], "log-inconsistent"),
    "no proof": (note_of(6), [], "log-inconsistent"),
    "the proof of another step": (note_of(6), proof_of(2, 6), "log-inconsistent"),
    "another log of the same size": (note_of(3, root=bytes(32)), [], "log-inconsistent"),
    "another history under a genuine signature": (note_of(6, root=bytes(32)), proof_of(3, 6), "log-inconsistent"),
    "a proof with a hash cut short": (note_of(6), [bytes(31), *proof_of(3, 6)[1:]], "log-inconsistent"),
    "a checkpoint of another key": (note_of(6, signer=STRANGER), proof_of(3, 6), "invalid-signature"),
    "a checkpoint of another log": (note_of(6, origin="qflare/other"), proof_of(3, 6), "proof-refused"),
    "a note that is none": ("not a note", [], "malformed-message"),
}


@pytest.mark.parametrize(("note", "proof", "code"), LIES.values(), ids=LIES)
def test_a_log_that_does_not_extend_the_one_seen_opens_no_session(
    tmp_path: Path, note: str | None, proof: list[bytes], code: str
) -> None:
    remember(tmp_path, 3)
    with pytest.raises(Refusal) as caught:
        handshaker(ScriptedServer(note, proof), tmp_path).shake_hands()
    assert caught.value.code == code
    assert seen_after(tmp_path) == SeenCheckpoint(3, root_of(LEAVES[:3]))


@pytest.mark.parametrize(("note", "proof", "code"), LIES.values(), ids=LIES)
def test_a_forked_log_is_kept_as_an_incident_and_stops_the_device_until_a_person_has_looked(
    tmp_path: Path, note: str | None, proof: list[bytes], code: str
) -> None:
    remember(tmp_path, 3)
    with pytest.raises(Refusal):
        handshaker(ScriptedServer(note, proof), tmp_path).shake_hands()
    incident = tmp_path / "log-incident.json"
    kept = json.loads(incident.read_text())
    assert (kept["severity"], kept["shown"], kept["seen"]["size"]) == ("critical", note, 3)
    assert kept["reason"].startswith(code)
    honest = ScriptedServer(note_of(6), proof_of(3, 6))
    with pytest.raises(Refusal, match="look into") as refused:
        handshaker(honest, tmp_path).shake_hands()
    assert (refused.value.code, honest.buckets) == ("log-inconsistent", [])
    incident.unlink()
    handshaker(honest, tmp_path).shake_hands()


def test_a_refusal_that_nobody_vouches_for_is_no_incident(tmp_path: Path) -> None:
    class Liar(ScriptedServer):
        def _challenge(self, m1: bytes) -> dict[str, Any]:
            raise Refusal("log-inconsistent", "says who?")

    with pytest.raises(Refusal, match="says who"):
        handshaker(Liar(), tmp_path).shake_hands()
    assert not (tmp_path / "log-incident.json").exists()


def test_a_checkpoint_seen_for_the_first_time_is_cosigned_and_the_same_again_is_not(tmp_path: Path) -> None:
    server = ScriptedServer(note_of(4))
    opened = handshaker(server, tmp_path).shake_hands()
    seen = verify_cosignature(KEYS.signer.verifier, opened.cosignature or b"")
    assert (seen.origin, seen.size, seen.root) == (ORIGIN, 4, root_of(LEAVES[:4]))
    assert handshaker(server, tmp_path).shake_hands().cosignature is None


def armoured(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def test_a_genuine_signed_time_sets_the_clock(tmp_path: Path) -> None:
    server = ScriptedServer()
    server.skew_answer = lambda m1: {
        "signed_server_time": armoured(sign_server_time(SERVER, bound_to=m1, now=time.time()))
    }
    shaking = handshaker(server, tmp_path, clock=lambda: time.time() - 5000)
    shaking.shake_hands()
    assert shaking.server_time() == pytest.approx(time.time(), abs=30)
    assert len(server.buckets) == 2


FALSE_TIMES = {
    "signed by a stranger": (
        lambda m1: armoured(sign_server_time(STRANGER, bound_to=m1, now=1e9)),
        "invalid-signature",
    ),
    "for another M1": (lambda _: armoured(sign_server_time(SERVER, bound_to=b"old", now=1e9)), "invalid-signature"),
    "no signed structure": (lambda _: armoured(b"\xff"), "malformed-message"),
    "no base64": (lambda _: "A", "clock-skew"),
    "no text": (lambda _: 1, "clock-skew"),
}


@pytest.mark.parametrize(("signed", "code"), FALSE_TIMES.values(), ids=FALSE_TIMES)
def test_a_time_the_server_did_not_sign_for_this_m1_sets_no_clock(
    tmp_path: Path, signed: Callable[[bytes], Any], code: str
) -> None:
    server, wrong = ScriptedServer(), time.time() - 5000
    server.skew_answer = lambda m1: {"signed_server_time": signed(m1)}
    shaking = handshaker(server, tmp_path, clock=lambda: wrong)
    with pytest.raises(Refusal) as caught:
        shaking.shake_hands()
    assert caught.value.code == code
    assert shaking.server_time() == wrong
    assert len(server.buckets) == 1


def test_a_clock_is_set_once_and_not_for_ever(tmp_path: Path) -> None:
    """A genuine time that still does not fit ends the attempt: no server keeps a device turning."""
    server = ScriptedServer()
    server.skew_answer = lambda m1: {"signed_server_time": armoured(sign_server_time(SERVER, bound_to=m1, now=1e9))}
    with pytest.raises(Refusal) as caught:
        handshaker(server, tmp_path, clock=lambda: time.time() - 5000).shake_hands()
    assert caught.value.code == "clock-skew"
    assert len(server.buckets) == 2


def test_a_skew_answer_without_a_time_is_only_a_refusal(tmp_path: Path) -> None:
    server = ScriptedServer()
    server.skew_answer = lambda _: {}
    with pytest.raises(Refusal, match="clock-skew"):
        handshaker(server, tmp_path, clock=lambda: 1e9).shake_hands()
    assert len(server.buckets) == 1
