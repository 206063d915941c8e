"""What a sealed process is given of a round: the base model, the sealed updates, the carried rows."""

import io
from collections.abc import Sequence

from enclave.models import EnclaveInstance
from enclave.round_given import RoundGiven, SealedRow, SealedUpdate
from keyring import envelope
from qflare_protocol.chunked import open_chunks
from qflare_protocol.errors import Refusal
from qflare_protocol.ranges import range_bounds
from qflare_protocol.tensors import parse_header
from qflare_protocol.update_shape import update_columns
from training.blobs import open_blob, opener_of, pieces_of
from training.models import ModelVersion, Round, Update
from training.services.federations import MODEL_CONTEXT
from training.services.rounds import roster_entries


def load_model(version: ModelVersion) -> bytes:
    """Return a stored model version, decrypted. Raises `Refusal("internal-error")` when its blob is damaged."""
    key = envelope.unwrap(
        bytes(version.wrapped_content_key), **ModelVersion.envelope(version.federation_id, version.number)
    )
    try:
        with open_blob(version.blob_digest) as blob:
            return b"".join(open_chunks(key, pieces_of(blob), context=MODEL_CONTEXT))
    except Refusal as refusal:  # never to be taken for a lost enclave key
        raise Refusal("internal-error", f"The stored model of {version} is damaged: {refusal.detail}") from refusal


def ranges_of(round_: Round) -> int:
    """Return among how many processes a round's model is shared out."""
    policy = round_.aggregation_policy()
    if policy.ranges == 1:
        return 1
    layout = parse_header(load_model(round_.base_version)).layout
    return len(range_bounds(update_columns(policy, layout), policy.ranges))


def given_of(round_: Round, instance: EnclaveInstance, carried: Sequence[SealedRow]) -> RoundGiven:
    """Return what the sealed process of an instance is given of a round."""
    base = load_model(round_.base_version)
    return RoundGiven(
        round_id=round_.id.bytes,
        federation_id=round_.federation_id.bytes,
        policy=round_.aggregation_policy(),
        wrapped_keys=bytes(instance.wrapped_keys),
        base_model_digest=bytes(round_.base_version.digest),
        open_base_model=lambda: io.BytesIO(base),
        roster=roster_entries(round_),
        updates=_sealed_updates(round_),
        carried=carried,
    )


def _sealed_updates(round_: Round) -> list[SealedUpdate]:
    updates = Update.objects.filter(participation__round=round_).select_related("participation")
    return [
        SealedUpdate(update.participation.device_id.bytes, bytes(update.manifest), opener_of(update.blob_digest))
        for update in updates.order_by("participation__device_id")
    ]
