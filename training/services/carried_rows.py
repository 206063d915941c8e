"""What federations carry from round to round under their enclave's seal: kept, handed in, replaced, forgotten."""

import tempfile
import uuid
from collections.abc import Callable
from typing import IO, Self

from django.db.models import Q

from audit.services import record_event
from enclave.core.carried import RADIUS
from enclave.core.second_pass import MODEL
from enclave.round_given import SealedRow
from qflare_protocol.carried_rows import CarriedRow as CarriedDescription
from qflare_protocol.chunked import sealed_size
from qflare_protocol.errors import Refusal
from training.blobs import StoredBlob, opener_of, pieces_of, store_blob
from training.models import CarriedRow, Round
from training.services.rounds import event_payload

ROWS_OF_NO_DEVICE = 5


class Outputs:
    """What an enclave gives out while it aggregates: the model, which is passed on, and carried rows, kept in files.

    No output is longer than a sealed model of the base model's size, and there are no more rows than
    devices and a few: an update may have taken the sealed process over.
    """

    def __init__(self, take_model: Callable[[bytes], None], *, base_model_bytes: int, devices: int) -> None:
        self._take_model = take_model
        self._most_bytes = sealed_size(base_model_bytes)
        self._most_rows = devices + ROWS_OF_NO_DEVICE
        self._model_bytes = 0
        self._rows: dict[str, IO[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._rows.values():
            file.close()

    def write(self, name: str, piece: bytes) -> None:
        """Take a piece of the output of that name.

        Raises `Refusal("enclave-failed")` where it is too much, and what passing the model on raises.
        """
        if name == MODEL:
            self._take_model(piece)
            self._model_bytes += len(piece)
            written = self._model_bytes
        else:
            written = self._write_row(name, piece)
        if written > self._most_bytes or len(self._rows) > self._most_rows:
            raise Refusal("enclave-failed", "The sealed process gives out more than a round can.")

    def _write_row(self, name: str, piece: bytes) -> int:
        if name not in self._rows:
            self._rows[name] = tempfile.TemporaryFile()
        self._rows[name].write(piece)
        return self._rows[name].tell()

    def store_carried_rows(self) -> dict[str, StoredBlob]:
        """Put the rows on stable storage, by name; they count only when the round is published."""
        stored = {}
        for name, file in self._rows.items():
            file.seek(0)
            stored[name] = store_blob(pieces_of(file))
        return stored


def carried_rows(federation_id: uuid.UUID, range_index: int | None = None) -> list[SealedRow]:
    """Return the rows that a federation carries, by name; of one range of a model those that this range made."""
    rows = CarriedRow.objects.filter(federation_id=federation_id).order_by("name")
    if range_index is not None:
        of_round = Q(name=RADIUS) if range_index == 0 else Q()
        rows = rows.filter(Q(name__endswith=f"@{range_index}") | of_round)
    return [SealedRow(_description(row), opener_of(row.blob_digest)) for row in rows]


def replace_carried_rows(round_: Round, enclave_key_id: bytes, stored: dict[str, StoredBlob]) -> None:
    """Let the rows that a round left take the place of those of the same names, inside the caller's transaction."""
    for name, blob in stored.items():
        CarriedRow.objects.update_or_create(
            federation_id=round_.federation_id,
            name=name,
            defaults={
                "enclave_key_id": enclave_key_id,
                "blob_digest": blob.digest,
                "blob_bytes": blob.size_bytes,
                "round": round_,
            },
        )


def forget_carried_rows(round_: Round, *, reason: str) -> None:
    """Drop rows that no enclave can open any more, inside the caller's transaction: the federation begins without.

    Every later result shows it: its `carried_in` is not the `carried_out` of the round before.
    """
    dropped, _ = CarriedRow.objects.filter(federation_id=round_.federation_id).delete()
    if dropped:
        payload = event_payload(round_) | {"rows": dropped, "reason": reason}
        record_event("federation.carried_rows_lost", actor="system", payload=payload)


def _description(row: CarriedRow) -> CarriedDescription:
    return CarriedDescription(row.name, bytes(row.enclave_key_id), bytes.fromhex(row.blob_digest))
