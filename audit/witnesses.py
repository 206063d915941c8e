"""What devices cosign: kept for ever, and handed to auditors."""

import json
from base64 import b64encode
from collections.abc import Iterator
from datetime import datetime
from pathlib import PurePosixPath

from audit.models import WitnessCosignature
from audit.services import log_origin
from audit.tree import root_of_prefix
from qflare_protocol.cose import Verifier
from qflare_protocol.errors import Refusal
from qflare_protocol.log_cosignature import verify_cosignature

WITNESSES_FILE = PurePosixPath("witnesses.jsonl")


def store_cosignature(device_name: str, verifier: Verifier, signed: bytes, *, now: datetime) -> None:
    """Keep a device's signature under a checkpoint of this log; the same again changes nothing.

    Raises `Refusal`: "invalid-signature", "malformed-message", "proof-refused" for another log's checkpoint,
    "log-inconsistent" for one that is not part of this log, which the log then tells of.
    """
    seen = verify_cosignature(verifier, signed)
    if seen.origin != log_origin():
        raise Refusal("proof-refused", "The cosignature is of another log than this server's.")
    if seen.size < 1 or root_of_prefix(seen.size) != seen.root:
        refusal = Refusal("log-inconsistent", "What you have cosigned is not part of this log; tell the operator.")
        told = {"device": device_name, "size": seen.size, "root": seen.root.hex()}
        raise refusal.with_event("log.fork_reported", actor=f"device:{device_name}", **told)
    made = WitnessCosignature(
        device_name=device_name,
        key_fingerprint=verifier.fingerprint,
        size=seen.size,
        root=seen.root,
        algorithm=verifier.algorithm,
        public_key=verifier.public,
        cosignature=signed,
        received_at=now,
    )
    WitnessCosignature.objects.bulk_create([made], ignore_conflicts=True)


def export_witnesses(size: int) -> Iterator[bytes]:
    """Yield the lines of `witnesses.jsonl` for a log of that size, in order of size."""
    rows = WitnessCosignature.objects.filter(size__lte=size).order_by("size", "id")
    for row in rows.iterator(chunk_size=500):
        line = {
            "device": row.device_name,
            "algorithm": row.algorithm,
            "key": b64encode(row.public_key).decode(),
            "cosignature": b64encode(row.cosignature).decode(),
        }
        yield json.dumps(line).encode() + b"\n"
