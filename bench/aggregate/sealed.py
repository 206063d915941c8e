"""`python -m bench.aggregate.sealed`: a round from sealed blobs on disk to a signed model, beside its primitives."""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.measuring import steady
from enclave.courier import EnclaveHost, PreparedRound, SealedUpdate, aggregate_round, prepare_round
from enclave.courier import initialise_host_directory as initialise
from qflare_protocol import pqc
from qflare_protocol.aggregation_policy import NONE, AggregationPolicy, Stage
from qflare_protocol.chunked import CHUNK_BYTES, TAG_BYTES
from qflare_protocol.cose import Signer
from qflare_protocol.manifest import Manifest, sign_manifest, verify_manifest
from qflare_protocol.round_result import RosterEntry
from qflare_protocol.tensors import encode_tensors, model_digest
from qflare_protocol.update import UpdateContext, seal_update

FEDERATION = bytes(15) + b"f"
PIPELINES = {
    "mean": AggregationPolicy(tolerated_fraction=0.0, pre_aggregation=(), rule=Stage("mean"), server_optimiser=NONE),
    "the default": AggregationPolicy(),
    "clipping, NNM, trimmed mean": AggregationPolicy(rule=Stage("trimmed-mean")),
}


PAGE = """# From sealed updates on disk to a signed model

Made by `python -m bench.aggregate.sealed --output docs/benchmarks/sealed.md` on {system}, Python {python}, one core:
{updates} updates of {megabytes:g} MB, sealed and signed, through the courier and a really sealed process. The time is
from the request to the signed result, without the start of the process; the least of the runs, in seconds.

The bound is what cannot be saved: every manifest's signature checked, every byte read, hashed with BLAKE3 and
decrypted with AES-256-GCM, its norm taken and added up, chunk by chunk, by the same libraries in the same run.

{table}
The mean is known before an update is read: the model is made during the one reading, and the goal is 1.5 times the
bound. The other pipelines decide on all updates first and read them again, which alone is twice the bound; *combine*
is that second reading with the mixing and the rule.
"""


@dataclass(frozen=True)
class SealedRound:
    """One prepared round with its updates as files."""

    round_id: bytes
    prepared: PreparedRound
    policy: AggregationPolicy
    base: Path
    roster: tuple[RosterEntry, ...]
    manifests: tuple[bytes, ...]
    blobs: tuple[Path, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.aggregate.sealed", description=__doc__)
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--megabytes", type=float, default=10.0, help="of float32 in each update")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print every figure as JSON for machines")
    parser.add_argument("--output", type=Path, help="write the Markdown page there")
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        uid = 65534 if os.geteuid() == 0 else os.getuid()
        initialise(Path(folder) / "host", uid, uid)
        host = EnclaveHost(Path(folder) / "host", uid, uid)
        for name, policy in PIPELINES.items():
            sealed = _sealed_round(host, policy, Path(folder), options.updates, int(options.megabytes * 250_000))
            rows.append(_measure(name, host, sealed, options.repetitions))
    if options.json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    elif options.output:
        options.output.write_text(_page(options.updates, options.megabytes, rows), encoding="utf-8")
    else:
        sys.stdout.write(_table(rows))


@dataclass(frozen=True)
class Figures:
    """One pipeline's least seconds, those of each step of that run, and the bound measured in the same minutes."""

    rule: str
    seconds: float
    bound: float
    steps: dict[str, float]


def _table(rows: Sequence[Figures]) -> str:
    steps = [step for step in rows[0].steps if step != "seal"]
    lines = [f"| pipeline | seconds | bound | times the bound | {' | '.join(steps)} |", "|---" * (4 + len(steps)) + "|"]
    for row in rows:
        taken = " | ".join(f"{row.steps[step]:.2f}" for step in steps)
        lines.append(f"| {row.rule} | {row.seconds:.2f} | {row.bound:.2f} | {row.seconds / row.bound:.2f} | {taken} |")
    return "\n".join(lines) + "\n"


def _page(updates: int, megabytes: float, rows: Sequence[Figures]) -> str:
    python, system = platform.python_version(), platform.machine()
    return PAGE.format(updates=updates, megabytes=megabytes, python=python, system=system, table=_table(rows))


def _measure(name: str, host: EnclaveHost, sealed: SealedRound, repetitions: int) -> Figures:
    bounds, best, steps = [], float("inf"), {}
    for _ in range(repetitions):
        bounds.append(_bound(sealed))
        taken: dict[str, float] = {}
        _aggregate(host, sealed, taken)
        seconds = sum(value for step, value in taken.items() if step != "seal")
        if seconds < best:
            best, steps = seconds, taken
    return Figures(name, best, min(bounds), steps)


def _aggregate(host: EnclaveHost, sealed: SealedRound, steps: dict[str, float]) -> bytes:
    pieces: list[bytes] = []
    return aggregate_round(
        host,
        round_id=sealed.round_id,
        federation_id=FEDERATION,
        policy=sealed.policy,
        wrapped_keys=sealed.prepared.wrapped_keys,
        base_model_digest=model_digest(sealed.base.read_bytes()),
        open_base_model=lambda: sealed.base.open("rb"),
        roster=sealed.roster,
        updates=[
            SealedUpdate(entry.device_id, manifest, lambda blob=blob: blob.open("rb"))  # type: ignore[misc]
            for entry, manifest, blob in zip(sealed.roster, sealed.manifests, sealed.blobs, strict=True)
        ],
        write_output=lambda name, piece: pieces.append(piece),
        on_step=steps.__setitem__,
    )


def _bound(sealed: SealedRound) -> float:
    """Return the seconds of reading, BLAKE3, signature check, AES-256-GCM, norm and addition, chunk by chunk."""
    cipher, nonce = AESGCM(bytes(32)), bytes(12)
    scratch = memoryview(bytearray(CHUNK_BYTES + TAG_BYTES))
    own = cipher.encrypt(nonce, bytes(CHUNK_BYTES), None)
    plain = memoryview(bytearray(CHUNK_BYTES))
    total, ones = np.zeros(CHUNK_BYTES // 4, dtype=np.float32), np.ones(CHUNK_BYTES // 4, dtype=np.float32)
    with steady():
        started = time.perf_counter()
        for entry, manifest, blob in zip(sealed.roster, sealed.manifests, sealed.blobs, strict=True):
            verify_manifest(manifest, entry.verifier)
            hasher = blake3()
            with blob.open("rb", buffering=0) as file:
                while count := file.readinto(scratch):
                    hasher.update(scratch[:count])
                    cipher.decrypt_into(nonce, own, None, plain)
                    float(ones @ ones)
                    total += ones
            hasher.digest()
        return time.perf_counter() - started


def _sealed_round(host: EnclaveHost, policy: AggregationPolicy, folder: Path, count: int, columns: int) -> SealedRound:
    round_id = os.urandom(16)
    prepared = prepare_round(host, round_id=round_id, federation_id=FEDERATION, policy=policy, nonce=bytes(32))
    base, generator = folder / "base", np.random.default_rng(count)
    base.write_bytes(encode_tensors({"w": np.zeros(columns, dtype=np.float32)}))
    digest, common = model_digest(base.read_bytes()), generator.standard_normal(columns, dtype=np.float32)
    roster, manifests, blobs = [], [], []
    for number in range(count):
        pair = pqc.signature("ML-DSA-44").generate()
        signer, device_id = Signer("ML-DSA-44", pair.private, pair.public), number.to_bytes(16, "big")
        context = UpdateContext(FEDERATION, round_id, device_id, prepared.key_id, digest)
        delta = common + generator.standard_normal(columns, dtype=np.float32)
        sealed = b"".join(seal_update(prepared.hpke_public_key, context, encode_tensors({"w": delta})))
        blobs.append(folder / f"update-{number}")
        blobs[-1].write_bytes(sealed)
        manifest = Manifest(
            round_id, FEDERATION, device_id, digest, 100, model_digest(sealed), len(sealed), prepared.key_id
        )
        manifests.append(sign_manifest(manifest, signer))
        roster.append(RosterEntry(device_id, signer.verifier))
    return SealedRound(round_id, prepared, policy, base, tuple(roster), tuple(manifests), tuple(blobs))


if __name__ == "__main__":
    main()
