"""The other side of the handshake that is measured: an enrolled device, and the primitives by themselves."""

import hashlib
import io
import secrets
import uuid
from collections.abc import Callable
from datetime import datetime

from django.db import transaction
from django.utils import timezone

from audit.services import sequence_log
from bench.measuring import Stopwatch
from devices.media_types import CBOR_MEDIA_TYPE
from devices.row_security import confined_transaction
from devices.services import register_device
from keyring.services import server_signer
from qflare_protocol import pqc
from qflare_protocol.cose import Signer
from qflare_protocol.device_keys import RegisteredKeys, generate_device_keypair
from qflare_protocol.handshake import ClientHandshake
from qflare_protocol.round_result import RoundResult, commitment_to, sign_result, verify_result
from qflare_protocol.sealed_request import (
    Authorization,
    MessageNumber,
    RequestOpener,
    Target,
    new_salt,
    seal_answer,
    seal_request,
)
from qflare_protocol.suites import DEFAULT_SUITE, suite_by_name
from sessions.exchanges import accept_request, open_request, store_answer
from sessions.services import activate_session, challenge_device

REQUEST_BYTES = 1024  # a poll for work and its answer


class Peer:
    """A device that the site has just enrolled, under the default suite."""

    def __init__(self) -> None:
        self._keys = generate_device_keypair(DEFAULT_SUITE)
        registered = RegisteredKeys(self._keys.suite, self._keys.kem.public, self._keys.signer.public)
        with transaction.atomic():
            self._device = register_device("bench", "", registered, now=timezone.now())
        suite = suite_by_name(DEFAULT_SUITE)
        self._identity = server_signer("identity", suite.signature)
        self._ephemeral_kem, self._registered_kem = pqc.kem(suite.ephemeral_kem), pqc.kem(suite.registered_kem)
        self._signature = pqc.signature(suite.signature)
        self._ephemeral = self._ephemeral_kem.generate()
        self._m1 = self._m2 = b""
        self._m1_signature = b""
        self._result_signer = Signer(suite.signature, *_pair(self._signature.generate()))
        self._result = sign_result(_result(), self._result_signer)
        sequence_log()

    def shake_hands(self, watch: Stopwatch, before_each: Callable[[str], None] = lambda part: None) -> None:
        """Run one handshake through the services; only the server's two parts are timed."""
        now = timezone.now()
        device_id = self._device.id.bytes
        client = ClientHandshake(device_id, self._keys, self._identity.verifier, now=now.timestamp(), checkpoint=None)
        before_each("challenge")
        answer = watch.run("challenge", challenge_device, client.request, now=now)
        session_id, ciphertext, confirmation = client.respond(answer.message, answer.succession)
        before_each("authenticate")
        confirmed = watch.run(
            "authenticate", activate_session, uuid.UUID(bytes=session_id), ciphertext, confirmation, now=now
        )
        self._session, self._sequence = client.establish(confirmed), 0
        self._m1, self._m2 = secrets.token_bytes(len(client.request)), secrets.token_bytes(len(answer.message))
        self._m1_signature = self._signature.sign(self._keys.signer.private, self._m1)

    def send_request(self, watch: Stopwatch, before_each: Callable[[str], None] = lambda part: None) -> None:
        """Have one sealed request opened, accepted and answered in the session; only the server's part is timed."""
        now, body = timezone.now(), bytes(REQUEST_BYTES)
        self._sequence += 1
        chain = self._session.chain
        key = chain.traffic_key(chain.epoch, chain.generation, now=now.timestamp())
        target = Target("POST", "/api/work", CBOR_MEDIA_TYPE, len(body))
        number = MessageNumber(self._session.session_id, chain.generation, chain.epoch, self._sequence, new_salt())
        authorization, sealed = seal_request(key, number, target, body)
        before_each("request")
        watch.run("request", _serve, authorization, target, sealed, now)
        watch.run("open and seal", _open_and_seal, key, authorization, target, sealed)

    def run_primitives(self, watch: Stopwatch) -> None:
        """Run what the server computes in a handshake, each operation once, over messages of the same lengths."""
        kem, registered = self._ephemeral_kem, self._registered_kem
        watch.run("verify M1", self._signature.verify, self._keys.signer.public, self._m1, self._m1_signature)
        _, ciphertext = watch.run("encapsulate to ephemeral key", kem.encapsulate, self._ephemeral.public)
        watch.run("encapsulate to registered key", registered.encapsulate, self._keys.kem.public)
        watch.run("ephemeral keygen", kem.generate)
        watch.run("sign M2", self._signature.sign, self._identity.private, self._m2)
        watch.run("hash M1 and M2", _hash, self._m1, self._m2)
        watch.run("decapsulate", kem.decapsulate, self._ephemeral.private, ciphertext)

    def check_model_signature(self, watch: Stopwatch) -> None:
        """Check the enclave's signature over a model's provenance as a device does, and the signature alone."""
        watch.run("check model", verify_result, self._result, self._result_signer.verifier)
        public = self._keys.signer.public
        watch.run("bare model verify", self._signature.verify, public, self._m1, self._m1_signature)


def _pair(pair: pqc.KeyPair) -> tuple[bytes, bytes]:
    return pair.private, pair.public


def _serve(authorization: Authorization, target: Target, sealed: bytes, now: datetime) -> None:
    """Do what `sessions.sealed_views` does around a view."""
    opened = open_request(authorization, target, io.BytesIO(sealed), now=now)
    with confined_transaction() as confine:
        accept_request(opened, now=now, confine=confine)
        store_answer(opened, opened.seal(200, CBOR_MEDIA_TYPE, bytes(REQUEST_BYTES)))


def _open_and_seal(key: bytes, authorization: Authorization, target: Target, sealed: bytes) -> None:
    opener = RequestOpener(key, authorization, target)
    body = opener.update(sealed)
    opener.finish()
    seal_answer(key, authorization, 200, CBOR_MEDIA_TYPE, body)


def _hash(*messages: bytes) -> None:
    for message in messages:
        hashlib.sha3_512(message).digest()


def _result() -> RoundResult:
    return RoundResult(
        round_id=bytes(16),
        federation_id=bytes(16),
        enclave_key_id=bytes(32),
        base_model_digest=bytes(32),
        model_digest=bytes(32),
        model_bytes=1 << 20,
        rule="weighted-mean",
        carried_in=bytes(64),
        carried_out=bytes(64),
        policy_digest=bytes(64),
        roster_digest=bytes(64),
        sample_total=1000,
        **commitment_to(()),
    )
