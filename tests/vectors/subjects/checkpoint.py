"""A log of five entries: their chain, their tree, proofs in it and its signed checkpoint."""

import os
from dataclasses import dataclass
from typing import Any

from qflare_protocol.audit_entry import GENESIS_HASH, SALT_BYTES, AuditEntry, Disclosure, commitment, entry_hash
from qflare_protocol.checkpoint import Checkpoint, parse_verifier_key, sign_checkpoint, verify_checkpoint
from qflare_protocol.checkpoint import format_verifier_key as verifier_key
from qflare_protocol.cose import Signer, Verifier
from qflare_protocol.errors import Refusal
from qflare_protocol.handshake import SeenCheckpoint
from qflare_protocol.log_cosignature import CosignedCheckpoint, cosign_checkpoint, verify_cosignature
from qflare_protocol.merkle import (
    CompactTree,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_from_leaves,
    verify_consistency,
    verify_inclusion,
)
from tests.vectors.parties import NOW, new_signer, signer_values, verifier_of
from tests.vectors.vector_file import Case, Receiver, Refused, VectorFile

ORIGIN, SEEN, SHOWN = "qflare/example", 3, 1
EVENTS = (
    ("system", "log.started", {}),
    ("operator:alice", "token.issued", {"name": "press 7"}),
    ("device:press 7", "device.enrolled", {"suite": "QF1-K1024", "key": bytes(4)}),
    ("stranger", "token.refused", {"code": "token-used"}),
    ("schedule", "round.opened", {"round_number": 1, "share": 0.5}),
)


@dataclass(frozen=True)
class SmallLog:
    """A log of five entries, its note, and the proof from the checkpoint over the first three."""

    origin: str
    signer: Signer
    disclosures: list[bytes]
    entries: list[bytes]
    root: bytes
    note: str
    seen: SeenCheckpoint
    proof: list[bytes]
    inclusion: list[bytes]


def small_log() -> SmallLog:
    """Make the log with a key of its own."""
    signer, disclosures, entries, previous = new_signer(), [], [], GENESIS_HASH
    for index, (actor, kind, payload) in enumerate(EVENTS):
        disclosures.append(Disclosure(os.urandom(SALT_BYTES), actor, payload).to_bytes())
        entry = AuditEntry(index, NOW * 10**6 + index, kind, commitment(disclosures[-1]), previous)
        entries.append(entry.to_bytes())
        previous = entry_hash(entries[-1])
    tree, nodes = CompactTree(), {}
    for entry in entries:
        nodes |= {(node.level, node.index): node.hash for node in tree.append(leaf_hash(entry))}
    size, root = len(entries), tree.root()
    seen = SeenCheckpoint(SEEN, root_from_leaves(map(leaf_hash, entries[:SEEN])))

    def node(level: int, index: int) -> bytes:
        return nodes[level, index]

    note = sign_checkpoint(signer, Checkpoint(ORIGIN, size, root), NOW)
    proofs = (consistency_proof(SEEN, size, node), inclusion_proof(SHOWN, size, node))
    return SmallLog(ORIGIN, signer, disclosures, entries, root, note, seen, *proofs)


def make() -> VectorFile:
    """Make the file."""
    log = small_log()
    values: dict[str, Any] = {"origin": log.origin, "note": log.note, "size": len(log.entries), "root": log.root}
    values |= {"timestamp": NOW, "log_private": log.signer.private, "log_public": log.signer.public}
    values |= {"verifier_key": verifier_key(log.origin, log.signer.verifier), "seen_size": SEEN}
    values |= {"seen_root": log.seen.root, "consistency_proof": log.proof, "shown_index": SHOWN}
    values |= {"inclusion_proof": log.inclusion, "zero": b"\x00", "one": b"\x01"}
    values |= {f"disclosure_{index}": disclosure for index, disclosure in enumerate(log.disclosures)}
    values |= {f"entry_{index}": entry for index, entry in enumerate(log.entries)}
    device, known = new_signer(), CosignedCheckpoint(log.origin, len(log.entries), log.root)
    values |= {"signature_algorithm": device.algorithm, "cosignature": cosign_checkpoint(device, known)}
    values |= signer_values("device", device)
    case = Case("five entries", values)
    options = {"label": "log cosignature", "algorithm": device.algorithm, "key": "device_public"}
    case.step("sign1", structure="cosignature", **options)
    for index in range(len(log.entries)):
        case.step("digest", f"commitment_{index}", label="audit disclosure", inputs=[f"disclosure_{index}"])
        case.step("digest", f"entry_{index}_hash", label="audit entry", inputs=[f"entry_{index}"])
        case.step("concatenate", f"leaf_{index}_input", inputs=["zero", f"entry_{index}"], stored=False)
        case.step("SHA-256", f"leaf_{index}", input=f"leaf_{index}_input")
    _add_tree(case)
    purpose = "Entries with their hashes, the tree over them, an inclusion and a consistency proof, a signed note."
    return VectorFile(purpose, "13 The log", [case], _refusals(values))


def _add_tree(case: Case) -> None:
    """The root over five leaves: ((0, 1), (2, 3)), 4."""
    for gives, left, right in (
        ("node_01", "leaf_0", "leaf_1"),
        ("node_23", "leaf_2", "leaf_3"),
        ("node_0123", "node_01", "node_23"),
        ("root", "node_0123", "leaf_4"),
        ("seen_root", "node_01", "leaf_2"),
    ):
        case.step("concatenate", f"{gives}_input", inputs=["one", left, right], stored=False)
        case.step("SHA-256", gives, input=f"{gives}_input")


def _refusals(values: dict[str, Any]) -> list[Refused]:
    note, other = values["note"], new_signer()
    body, signature = note.split("\n\n")
    stranger = sign_checkpoint(other, Checkpoint(ORIGIN, values["size"], values["root"]), NOW)
    smaller = note.replace(f"\n{values['size']}\n", "\n4\n")
    swapped = values["inclusion_proof"][::-1]
    cosigned = cosign_checkpoint(other, CosignedCheckpoint(ORIGIN, values["size"], values["root"]))
    rows = [
        ("a note signed by another key", "reader of the note", "invalid-signature", {"note": stranger}),
        ("a note of another size", "reader of the note", "invalid-signature", {"note": smaller}),
        ("a note of another log", "reader of the note", "proof-refused", {"origin": "qflare/other"}),
        ("a note with an extension line", "reader of the note", "malformed-message",
         {"note": f"{body}\nextension\n\n{signature}"}),
        ("a note with a size in another form", "reader of the note", "malformed-message",
         {"note": note.replace(f"\n{values['size']}\n", f"\n0{values['size']}\n")}),
        ("a note without a signature", "reader of the note", "malformed-message", {"note": f"{body}\n"}),
        ("an inclusion proof in another order", "reader of the proofs", "proof-refused", {"inclusion_proof": swapped}),
        ("an inclusion proof of another leaf", "reader of the proofs", "proof-refused", {"shown_index": 0}),
        ("a consistency proof from another root", "reader of the proofs", "proof-refused", {"seen_root": bytes(32)}),
        ("a consistency proof from size 0", "reader of the proofs", "proof-refused", {"seen_size": 0}),
        ("an empty consistency proof", "reader of the proofs", "proof-refused", {"consistency_proof": []}),
        ("another disclosure", "reader of the entries", "digest-mismatch", {"disclosure_2": values["disclosure_1"]}),
        ("a cosignature by another key", "reader of the cosignature", "invalid-signature", {"cosignature": cosigned}),
        ("an entry cut short", "reader of the entries", "malformed-message", {"entry_2": values["entry_2"][:-1]}),
    ]  # fmt: skip
    return [Refused(*row, of="five entries") for row in rows]


def _read_note(values: dict[str, Any]) -> None:
    log = Verifier("ML-DSA-44", values["log_public"])
    signed = verify_checkpoint(values["note"], log, values["origin"])
    assert signed.checkpoint == Checkpoint(values["origin"], values["size"], values["root"])
    assert signed.timestamp == values["timestamp"]
    assert parse_verifier_key(values["verifier_key"]) == (values["origin"], log)


def _read_proofs(values: dict[str, Any]) -> None:
    index, size, root = values["shown_index"], values["size"], values["root"]
    verify_inclusion(leaf_hash(values[f"entry_{index}"]), index, size, values["inclusion_proof"], root)
    verify_consistency(values["seen_size"], values["seen_root"], size, root, values["consistency_proof"])


def _read_entries(values: dict[str, Any]) -> None:
    previous = GENESIS_HASH
    for index in range(values["size"]):
        data = values[f"entry_{index}"]
        entry = AuditEntry.from_bytes(data)
        assert (entry.index, entry.previous_hash, entry.to_bytes()) == (index, previous, data)
        disclosure = values[f"disclosure_{index}"]
        assert Disclosure.from_bytes(disclosure).to_bytes() == disclosure
        if commitment(disclosure) != entry.commitment:
            raise Refusal("digest-mismatch", "The entry commits to another disclosure.")
        previous = entry_hash(data)
        assert previous == values[f"entry_{index}_hash"]


def _read_cosignature(values: dict[str, Any]) -> None:
    seen = verify_cosignature(verifier_of(values, "device"), values["cosignature"])
    assert seen == CosignedCheckpoint(values["origin"], values["size"], values["root"])


RECEIVERS: dict[str, Receiver] = {
    "reader of the note": _read_note,
    "reader of the proofs": _read_proofs,
    "reader of the entries": _read_entries,
    "reader of the cosignature": _read_cosignature,
}
