"""The proof of one entry as a C2SP tlog-proof, to hand out by itself."""

from base64 import b64encode

from audit.models import Entry
from audit.services import current_checkpoint, inclusion_proof
from qflare_protocol.audit_entry import GENESIS_HASH
from qflare_protocol.log_tiles import frame_entry
from qflare_protocol.proof_bundle import format_proof


def entry_proof(entry: Entry) -> str:
    """Return the proof that an entry is in the log, under its current checkpoint (C2SP tlog-proof).

    The `extra` line holds the entry and what it discloses, in the frames of an export: the file needs no other
    beside it. Raises `LookupError` where no checkpoint covers the entry.
    """
    head = current_checkpoint()
    if head is None or entry.index >= head.size:
        raise LookupError(f"no checkpoint covers entry {entry.index}")
    extra = frame_entry(entry.canonical_bytes(_hash_before(entry))) + frame_entry(entry.event.disclosure_bytes())
    return format_proof(entry.index, inclusion_proof(entry.index, head.size), head.note, extra=extra)


def _hash_before(entry: Entry) -> bytes:
    if entry.index == 0:
        return GENESIS_HASH
    return bytes(Entry.objects.values_list("entry_hash", flat=True).get(index=entry.index - 1))


def encoded_hashes(hashes: list[bytes]) -> list[str]:
    """Return hashes as the JSON of the proof endpoints carries them: base64."""
    return [b64encode(value).decode("ascii") for value in hashes]
