"""The enclave's verdicts on the updates of a round, each with the path to the signed result, in the result's order."""

import uuid
from collections.abc import Iterator

from qflare_protocol.encoding import decode
from qflare_protocol.round_verdicts import VerdictProof
from training.models import Participation


def verdict_proofs_of(round_id: uuid.UUID, *, most: int | None = None) -> Iterator[VerdictProof]:
    """Yield the proofs of a round's verdicts by device id, at most so many; none of a round that was not completed."""
    judged = Participation.objects.filter(round_id=round_id, verdict_proof__isnull=False).order_by("device_id")
    for proof in judged.values_list("verdict_proof", flat=True)[:most].iterator(chunk_size=1000):
        yield VerdictProof.from_map(decode(bytes(proof), what="verdict proof"))
