"""What a person runs to see the protocol at work: keys made and tried, a session opened and rekeyed."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from edge_client.key_store import DeviceIdentity
from edge_client.session import DeviceSession
from edge_client.storage import write_private_file
from qflare_protocol import pqc
from qflare_protocol.cose import key_fingerprint
from qflare_protocol.device_keys import DeviceKeys, generate_device_keypair
from qflare_protocol.errors import Refusal
from qflare_protocol.suites import suite_by_name

REKEYS = 2
_TRIAL = b"QFLARE manual check"


def key_report(identity: DeviceIdentity) -> Iterator[str]:
    """Yield one line for each key of the device: current, in its overlap, or waiting for its registration."""
    yield from _key_lines(identity.keys, "current")
    for earlier in identity.earlier_keys:
        until = datetime.fromtimestamp(earlier.valid_until, UTC)
        yield from _key_lines(earlier.keys, f"valid until {until:%Y-%m-%d %H:%M} UTC")
    if identity.next_keys is not None:
        yield from _key_lines(identity.next_keys, "not registered yet")


def _key_lines(keys: DeviceKeys, state: str) -> Iterator[str]:
    suite = suite_by_name(keys.suite)
    kem = key_fingerprint(suite.registered_kem, keys.kem.public)
    yield f"{suite.registered_kem:26} {kem.hex()}  {state}"
    yield f"{suite.signature:26} {keys.signer.fingerprint.hex()}  {state}"


def try_new_keys(suite_name: str, output: Path | None) -> Iterator[str]:
    """Make a device key pair, use both keys once and yield what happened; the private keys are forgotten.

    Raises `Refusal`: "suite-refused", "algorithm-unavailable", "conflict" where `output` exists.
    """
    suite = suite_by_name(suite_name)
    if output is not None and output.exists():
        raise Refusal("conflict", f"{output} exists already; name a new folder.")
    started = time.perf_counter()
    keys = generate_device_keypair(suite_name)
    yield f"made in {(time.perf_counter() - started) * 1000:.1f} ms:"
    yield from _key_lines(keys, "made for this check")
    kem, signature = pqc.kem(suite.registered_kem), pqc.signature(suite.signature)
    secret, ciphertext = kem.encapsulate(keys.kem.public)
    if kem.decapsulate(keys.kem.private, ciphertext) != secret:
        raise Refusal("algorithm-unavailable", f"{kem.name} by {kem.engine} does not decapsulate what it encapsulated.")
    yield f"{kem.name} by {kem.engine}: encapsulated and decapsulated, ciphertext {len(ciphertext)} bytes"
    signed = signature.sign(keys.signer.private, _TRIAL)
    signature.verify(keys.signer.public, _TRIAL, signed)
    yield f"{signature.name} by {signature.engine}: signed and verified, signature {len(signed)} bytes"
    if output is not None:
        write_private_file(output / "kem.public", keys.kem.public)
        write_private_file(output / "signature.public", keys.signer.public)
        yield f"public keys written to {output}"


def manual_handshake(session: DeviceSession) -> Iterator[str]:
    """Open a session, ask for work in it, rekey it in both directions and close it; yield each step with its time.

    Raises `Refusal`, `ServerUnreachable`.
    """
    started = time.perf_counter()

    def step(sentence: str) -> str:
        nonlocal started
        elapsed, started = time.perf_counter() - started, time.perf_counter()
        return f"{elapsed * 1000:8.1f} ms  {sentence}"

    terms = session.open()
    yield step(f"server proved itself as {terms.server_identity.fingerprint.hex()[:16]}, session opened: {terms.suite}")
    for _ in range(REKEYS):
        generation = session.rekey()
        yield step(f"rekeyed to generation {generation}")
    session.post("/api/work", {})
    yield step("sealed request sent, its answer opened")
    session.close()
    yield step("session closed; both sides have forgotten its keys")
