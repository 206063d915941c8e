"""Seal an update to the sealed processes that share the model: to each the columns of its range."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from qflare_protocol.attestation.evidence import EnclaveClaims
from qflare_protocol.errors import Refusal
from qflare_protocol.manifest import UpdatePart
from qflare_protocol.ranges import range_bounds
from qflare_protocol.tensors import Float32Array, encode_tensors, model_digest
from qflare_protocol.update import UpdateContext, seal_update

BYTES_PER_COLUMN = 4


def seal_to_ranges(
    processes: Sequence[EnclaveClaims], context: UpdateContext, delta: Mapping[str, Float32Array]
) -> tuple[bytes, tuple[UpdatePart, ...]]:
    """Return the sealed update and its parts; sealed to one process it is the whole container and has none.

    `processes` are those that were appraised, in the order of their ranges; `delta` is in the order of the
    base model's container. Raises `Refusal("evidence-refused")` where the policy shares the model out among
    another number of processes.
    """
    bounds = range_bounds(sum(tensor.size for tensor in delta.values()), processes[0].policy.ranges)
    if len(bounds) != len(processes):
        shares = f"The policy shares the model among {len(bounds)} processes, the server names {len(processes)}."
        raise Refusal("evidence-refused", shares)
    if len(processes) == 1:
        return b"".join(seal_update(processes[0].hpke_public_key, context, encode_tensors(delta))), ()
    data, sealed = b"".join(tensor.astype("<f4").tobytes() for tensor in delta.values()), []
    for process, columns in zip(processes, bounds, strict=True):
        plaintext = data[columns.start * BYTES_PER_COLUMN : columns.stop * BYTES_PER_COLUMN]
        place = replace(context, enclave_key_id=process.key_id)
        sealed.append(b"".join(seal_update(process.hpke_public_key, place, plaintext)))
    parts = tuple(
        UpdatePart(process.key_id, len(part), model_digest(part))
        for process, part in zip(processes, sealed, strict=True)
    )
    return b"".join(sealed), parts
