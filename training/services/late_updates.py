"""Updates that come too late for their round: dropped, or handed in again to a later one that still takes them."""

from typing import Any

from qflare_protocol.errors import Refusal
from qflare_protocol.staleness import OlderBase
from training.models import Federation, ModelVersion, Round

DROPPED, KEPT = "dropped", "kept-for-next-round"
_BASE_COLUMNS = ("base_version_id", "base_version__restored_from_id", "base_version__number", "base_version__digest")
"""Neither a round's roster nor a version's provenance: both name every device."""


def round_closed(round_: Round) -> Refusal:
    """Return the refusal of an update that came too late, which tells the device what becomes of its training."""
    late = KEPT if round_.aggregation_policy().maximum_staleness else DROPPED
    detail = f"Round {round_.number} takes no more updates; ask for work."
    return Refusal("round-closed", detail, late_update=late)


def older_bases_of(federation: Federation, base: ModelVersion) -> list[list[Any]]:
    """Return the versions before a base whose updates its round also takes: [number, digest in hex, staleness].

    Newest first, along the line on which each was made from the next; versions that training went back
    behind are not on it.
    """
    bases: list[list[Any]] = []
    made = base.restored_from_id or base.id
    digests = {bytes(base.digest)}  # a version that changed nothing is the same model, and as fresh as its successor
    for staleness in range(1, federation.aggregation_policy().maximum_staleness + 1):
        found = Round.objects.filter(resulting_version_id=made).values_list(*_BASE_COLUMNS).first()
        if found is None:
            break
        version_id, restored_from_id, number, model_digest = found
        made = restored_from_id or version_id
        if bytes(model_digest) not in digests:
            digests.add(bytes(model_digest))
            bases.append([number, bytes(model_digest).hex(), staleness])
    return bases


def bases_on_the_wire(older_bases: list[list[Any]]) -> list[list[Any]]:
    """Return a round's older bases as an assignment names them, digests as bytes."""
    return [[number, bytes.fromhex(digest), staleness] for number, digest, staleness in older_bases]


def bases_of(round_: Round) -> tuple[OlderBase, ...]:
    """Return them as the sealed process is given them."""
    return tuple(OlderBase(bytes.fromhex(digest), staleness) for _, digest, staleness in round_.older_bases)


def takes_base(round_: Round, model_digest: bytes) -> bool:
    """Say whether a round takes updates trained from the model of this digest."""
    older = {digest for _, digest, _ in round_.older_bases}
    return model_digest == bytes(round_.base_version.digest) or model_digest.hex() in older
