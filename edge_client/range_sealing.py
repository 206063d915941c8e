"""Seal an update to the sealed processes that share the model: to each the columns of its range."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice

import blake3

from qflare_protocol.attestation.evidence import EnclaveClaims
from qflare_protocol.errors import Refusal
from qflare_protocol.manifest import UpdatePart
from qflare_protocol.ranges import BLOCK_COLUMNS
from qflare_protocol.tensors import encode_header
from qflare_protocol.update import UpdateContext, seal_update
from qflare_protocol.update_shape import UpdateShape


class RangeSealing:
    """Seals one update piece by piece; `parts` are there when all pieces were taken.

    `processes` are those that were appraised, in the order of their ranges. Raises `Refusal("evidence-refused")`
    where the policy shares the model out among another number of processes.
    """

    def __init__(self, processes: Sequence[EnclaveClaims], context: UpdateContext, shape: UpdateShape) -> None:
        self._processes, self._context, self._shape = processes, context, shape
        self._bounds = shape.bounds(processes[0].policy.ranges)
        self._parts: list[UpdatePart] = []
        if len(self._bounds) != len(processes):
            shares = f"The policy shares the model among {len(self._bounds)} processes, the server names"
            raise Refusal("evidence-refused", f"{shares} {len(processes)}.")

    @property
    def parts(self) -> tuple[UpdatePart, ...]:
        """What was sealed to each process; of an update that was sealed to one there are no parts."""
        return tuple(self._parts) if len(self._processes) > 1 else ()

    def pieces(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the sealed update; `blocks` are the coded blocks of the grid, in order."""
        left = iter(blocks)
        for process, columns in zip(self._processes, self._bounds, strict=True):
            own: Iterable[bytes] = islice(left, -(-columns.width // BLOCK_COLUMNS))
            if len(self._processes) == 1:
                own = chain([encode_header(self._shape.container)], own)
            yield from self._sealed(process, own)

    def _sealed(self, process: EnclaveClaims, plaintext: Iterable[bytes]) -> Iterator[bytes]:
        hasher, size = blake3.blake3(), 0
        context = replace(self._context, enclave_key_id=process.key_id)
        for piece in seal_update(process.hpke_public_key, context, plaintext):
            hasher.update(piece)
            size += len(piece)
            yield piece
        self._parts.append(UpdatePart(process.key_id, size, hasher.digest()))
