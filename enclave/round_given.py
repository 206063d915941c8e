"""What a sealed process is given of a round, and how the blobs are opened for reading."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from enclave.core.requests import AggregateRequest, SubmittedManifest
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.carried_rows import CarriedRow
from qflare_protocol.round_result import RosterEntry
from qflare_protocol.staleness import OlderBase

OpenBlob = Callable[[], BinaryIO]


@dataclass(frozen=True)
class SealedUpdate:
    """One submitted update: the device, its signed manifest, and how to open the sealed blob for reading."""

    device_id: bytes
    manifest: bytes
    open_blob: OpenBlob


@dataclass(frozen=True)
class SealedRow:
    """One row that the federation carries, and how to open its sealed blob for reading."""

    description: CarriedRow
    open_blob: OpenBlob


@dataclass(frozen=True)
class RoundGiven:
    """What a sealed process is given of a round: what it is asked, and how the blobs are opened for reading.

    `older_bases` are the models besides the newest to which updates are taken, from the least to the most stale.
    """

    round_id: bytes
    federation_id: bytes
    policy: AggregationPolicy
    wrapped_keys: bytes
    base_model_digest: bytes
    open_base_model: OpenBlob
    roster: Sequence[RosterEntry]
    updates: Sequence[SealedUpdate]
    carried: Sequence[SealedRow] = ()
    older_bases: Sequence[OlderBase] = ()

    @property
    def openers(self) -> list[OpenBlob]:
        """What opens the blobs, in the order in which a request names their descriptors."""
        return [
            self.open_base_model,
            *(update.open_blob for update in self.updates),
            *(row.open_blob for row in self.carried),
        ]

    def request(self, descriptors: tuple[int, ...]) -> AggregateRequest:
        """Return what is asked, with the blobs open as these descriptors."""
        return AggregateRequest(
            round_id=self.round_id,
            federation_id=self.federation_id,
            policy=self.policy,
            wrapped_keys=self.wrapped_keys,
            base_model_digest=self.base_model_digest,
            roster=tuple(self.roster),
            updates=tuple(SubmittedManifest(update.device_id, update.manifest) for update in self.updates),
            carried=tuple(row.description for row in self.carried),
            older_bases=tuple(self.older_bases),
            descriptors=descriptors,
        )
