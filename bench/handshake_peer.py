"""The other side of the handshake that is measured: an enrolled device, and the primitives by themselves."""

import secrets
import uuid
from collections.abc import Callable

from django.db import transaction
from django.utils import timezone

from audit.services import sequence_log
from bench.measuring import Stopwatch
from devices.services import register_device
from keyring.services import server_signer
from qflare_protocol import pqc
from qflare_protocol.cose import Signer
from qflare_protocol.device_keys import RegisteredKeys, generate_device_keypair
from qflare_protocol.handshake import ClientHandshake
from qflare_protocol.round_result import RoundResult, sign_result, verify_result
from qflare_protocol.suites import DEFAULT_SUITE, suite_by_name
from sessions.services import activate_session, challenge_device

MESSAGE_BYTES = 4096  # about what M1 and M2 have under their signatures


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
        self._message = secrets.token_bytes(MESSAGE_BYTES)
        self._signed = self._signature.sign(self._keys.signer.private, self._message)
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
        client.establish(confirmed)

    def run_primitives(self, watch: Stopwatch) -> None:
        """Run what the server computes in a handshake, each operation once."""
        kem, registered = self._ephemeral_kem, self._registered_kem
        watch.run("verify M1", self._signature.verify, self._keys.signer.public, self._message, self._signed)
        _, ciphertext = watch.run("encapsulate to ephemeral key", kem.encapsulate, self._ephemeral.public)
        watch.run("encapsulate to registered key", registered.encapsulate, self._keys.kem.public)
        watch.run("ephemeral keygen", kem.generate)
        watch.run("sign M2", self._signature.sign, self._identity.private, self._message)
        watch.run("decapsulate", kem.decapsulate, self._ephemeral.private, ciphertext)

    def check_model_signature(self, watch: Stopwatch) -> None:
        """Check the enclave's signature over a model's provenance as a device does, and the signature alone."""
        watch.run("check model", verify_result, self._result, self._result_signer.verifier)
        watch.run("bare model verify", self._signature.verify, self._keys.signer.public, self._message, self._signed)


def _pair(pair: pqc.KeyPair) -> tuple[bytes, bytes]:
    return pair.private, pair.public


def _result() -> RoundResult:
    return RoundResult(
        round_id=bytes(16),
        federation_id=bytes(16),
        enclave_key_id=bytes(32),
        base_model_digest=bytes(32),
        model_digest=bytes(32),
        model_bytes=1 << 20,
        rule="weighted-mean",
        policy_digest=bytes(64),
        roster_digest=bytes(64),
        sample_total=1000,
        verdicts=(),
    )
