"""What a sealed process is given of a round: the base model, the sealed updates, the carried rows."""

import os
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from typing import BinaryIO

from enclave.models import EnclaveInstance
from enclave.round_given import RoundGiven, SealedRow, SealedUpdate
from keyring import envelope
from qflare_protocol.chunked import open_chunks
from qflare_protocol.errors import Refusal
from qflare_protocol.ranges import range_bounds
from qflare_protocol.tensors import LENGTH_BYTES, MAX_HEADER_BYTES, parse_header
from qflare_protocol.update_shape import update_columns
from training.blobs import open_blob, opener_of, pieces_of
from training.models import ModelVersion, Round, Update
from training.services.federations import MODEL_CONTEXT
from training.services.late_updates import bases_of
from training.services.quarantine import QUARANTINED
from training.services.rounds import roster_entries


def model_pieces(version: ModelVersion) -> Generator[bytes]:
    """Yield a stored model version, decrypted, piece by piece.

    Raises `Refusal("internal-error")` when its blob is damaged, at the latest at its end.
    """
    key = envelope.unwrap(
        bytes(version.wrapped_content_key), **ModelVersion.envelope(version.federation_id, version.number)
    )
    try:
        with open_blob(version.blob_digest) as blob:
            yield from open_chunks(key, pieces_of(blob), context=MODEL_CONTEXT)
    except Refusal as refusal:  # never to be taken for a lost enclave key
        raise Refusal("internal-error", f"The stored model of {version} is damaged: {refusal.detail}") from refusal


def load_model(version: ModelVersion) -> bytes:
    """Return a stored model version, decrypted, in memory. Raises as `model_pieces` does."""
    return b"".join(model_pieces(version))


def open_model(version: ModelVersion) -> BinaryIO:
    """Return a stored model version, decrypted, as a file in memory without a name: it must not touch a disk.

    The file is the only copy. Raises as `model_pieces` does.
    """
    with ExitStack() as unless_whole:
        file = unless_whole.enter_context(os.fdopen(os.memfd_create("model"), "w+b"))
        for piece in model_pieces(version):
            file.write(piece)
        file.flush()
        file.seek(0)
        unless_whole.pop_all()
        return file


def ranges_of(round_: Round) -> int:
    """Return among how many processes a round's model is shared out."""
    policy = round_.aggregation_policy()
    if policy.ranges == 1:
        return 1
    layout = parse_header(_first_bytes(round_.base_version)).layout
    return len(range_bounds(update_columns(policy, layout), policy.ranges))


def _first_bytes(version: ModelVersion) -> bytes:
    """Return as much of a model as its header can have."""
    start = bytearray()
    with closing(model_pieces(version)) as pieces:
        for piece in pieces:
            start += piece
            if len(start) >= LENGTH_BYTES + MAX_HEADER_BYTES:
                break
    return bytes(start)


def given_of(round_: Round, instance: EnclaveInstance, carried: Sequence[SealedRow]) -> RoundGiven:
    """Return what the sealed process of an instance is given of a round."""
    return RoundGiven(
        round_id=round_.id.bytes,
        federation_id=round_.federation_id.bytes,
        policy=round_.aggregation_policy(),
        wrapped_keys=bytes(instance.wrapped_keys),
        base_model_digest=bytes(round_.base_version.digest),
        open_base_model=lambda: open_model(round_.base_version),
        roster=roster_entries(round_),
        updates=_sealed_updates(round_),
        carried=carried,
        older_bases=bases_of(round_),
    )


def _sealed_updates(round_: Round) -> list[SealedUpdate]:
    """Return the updates that were handed in, without those that an operator took out."""
    handed_in = Update.objects.filter(participation__round=round_).select_related("participation")
    updates = handed_in.exclude(participation__reason=QUARANTINED)
    return [
        SealedUpdate(update.participation.device_id.bytes, bytes(update.manifest), opener_of(update.blob_digest))
        for update in updates.order_by("participation__device_id")
    ]
