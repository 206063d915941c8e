"""Whoever changes a log, in any way there is, is found, and what was done is named."""

import json
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import pytest

from qflare_protocol.audit_entry import AuditEntry
from qflare_protocol.checkpoint import Checkpoint, sign_checkpoint
from qflare_protocol.log_cosignature import CosignedCheckpoint, cosign_checkpoint
from tests.verifier.exports import (
    BEGIN,
    LOG,
    ORIGIN,
    STRANGER,
    Log,
    Told,
    flip,
    frames,
    holds,
    new_signer,
    put,
    roots_of,
    verdict,
    write_tiles,
)  # fmt: skip
from verifier.qflare_verify import Known, main

SIZE = 600


@pytest.fixture
def log() -> Log:
    return Log.of(SIZE)


@pytest.fixture
def export(log: Log, tmp_path: Path) -> Path:
    return log.write(tmp_path / "export")


def rewritten(log: Log, export: Path, events: list[Told]) -> Path:
    """Write the export's entries and tiles anew from other events; signatures stay as they were."""
    changed = replace(log, events=events)
    write_tiles(export, changed.entries(), changed.disclosures())
    return export


# change


def test_a_changed_entry_is_named(log: Log, export: Path) -> None:
    bundle = export / "tile/entries/001"
    flip(bundle, bundle.read_bytes().index(log.entries()[300]) + 20)
    sentence = "Entry 300 in tile/entries/001 was changed: it does not have the hash that tile/0/001 states for it."
    assert verdict(export) == ("changed", sentence)


def test_a_changed_hash_in_a_tile_is_named(export: Path) -> None:
    flip(export / "tile/0/002.p/88", 7 * 32)
    assert "Entry 519 in tile/entries/002.p/88 was changed" in verdict(export)[1]


def test_a_changed_hash_in_an_upper_tile_is_named(export: Path) -> None:
    flip(export / "tile/1/000.p/2", 32)
    assert verdict(export) == ("changed", "Hash 1 in tile/1/000.p/2 is not that of the tile below it.")


def test_an_entry_changed_with_its_tile_breaks_the_next_link(log: Log, tmp_path: Path) -> None:
    entries = log.entries()
    other = AuditEntry.from_bytes(entries[40])
    entries[40] = replace(other, occurred_at_microseconds=other.occurred_at_microseconds + 1).to_bytes()
    kind, sentence = verdict(log.write(tmp_path, entries))
    assert kind == "changed"
    assert sentence.startswith("Entry 41 in tile/entries/000 does not follow the entry before it")


def test_a_log_rewritten_whole_is_narrowed_down_by_its_checkpoints(log: Log, export: Path) -> None:
    events = [*log.events]
    events[430] = Told(actor="mallory", at=430)
    kind, sentence = verdict(rewritten(log, export, events))
    assert kind == "changed"
    assert sentence.startswith("The checkpoint of 500 entries in checkpoints has another root than these entries")
    assert "differs in entries 400 to 499" in sentence


def test_a_changed_disclosure_is_named(log: Log, tmp_path: Path) -> None:
    export = log.write(tmp_path, disclosures={3: Told(actor="mallory").disclosure(3)})
    sentence = "The disclosure of entry 3 in disclosures/000 was changed: the entry commits to another one."
    assert verdict(export) == ("changed", sentence)


# delete, insert, reorder


@pytest.mark.parametrize("index", [0, 41, 255, 256, 598])
def test_a_deleted_entry_is_named(log: Log, export: Path, index: int) -> None:
    entries = log.entries()
    del entries[index]
    write_bundles(export, entries)
    kind, sentence = verdict(export)
    assert kind == "deleted"
    expected = "holds 87 entries instead of 88" if index == 598 else f"Entry {index} in"
    assert expected in sentence


@pytest.mark.parametrize("index", [0, 41, 254, 256])
def test_an_inserted_entry_is_named(log: Log, export: Path, index: int) -> None:
    entries = log.entries()
    entries.insert(index, Log.of(3, STRANGER).entries()[2])
    write_bundles(export, entries)
    kind, sentence = verdict(export)
    assert kind == "inserted"
    assert f"Entry {index} in tile/entries/00{index // 256}" in sentence


def test_an_entry_deleted_with_its_tiles_is_named(log: Log, tmp_path: Path) -> None:
    entries = log.entries()
    del entries[41]
    shorter = replace(log, events=log.events[:-1], heads=[(SIZE - 1, BEGIN + SIZE)])
    kind, sentence = verdict(shorter.write(tmp_path, entries))
    place = "Entry 41 in tile/entries/000 says that it is entry 42"
    assert (kind, sentence) == ("deleted", f"{place}: entry 41 was deleted.")


def test_an_entry_inserted_with_its_tiles_is_named(log: Log, tmp_path: Path) -> None:
    entries = log.entries()
    entries.insert(41, entries[40])
    longer = replace(log, events=[*log.events, Told(at=600)], heads=[(SIZE + 1, BEGIN + SIZE)])
    kind, sentence = verdict(longer.write(tmp_path, entries))
    assert kind == "inserted"
    assert sentence.startswith("Entry 41 in tile/entries/000 says that it is entry 40")


def test_entries_in_another_order_are_named(log: Log, export: Path, tmp_path: Path) -> None:
    entries = log.entries()
    entries[200], entries[30] = entries[30], entries[200]
    kind, sentence = verdict(log.write(tmp_path / "with tiles", entries))
    assert kind == "reordered"
    assert sentence.startswith("Entry 30 in tile/entries/000 says that it is entry 200")
    write_bundles(export, entries)
    assert verdict(export) == (
        "reordered",
        "Entry 30 in tile/entries/000 stands in another order than tile/0/000 states.",
    )


def write_bundles(export: Path, entries: list[bytes]) -> None:
    """Write other entries into the bundles and leave everything else; what does not fit in the last is left out."""
    put(export / "tile/entries/000", frames(entries[:256]))
    put(export / "tile/entries/001", frames(entries[256:512]))
    put(export / "tile/entries/002.p/88", frames(entries[512:600]))


# truncate


def test_a_log_cut_short_is_named(export: Path) -> None:
    (export / "tile/entries/002.p/88").unlink()
    kind, sentence = verdict(export)
    assert kind == "truncated"
    assert sentence.startswith("tile/entries/002.p/88 is missing: the export ends there")


def test_a_log_cut_short_with_its_checkpoint_is_named_by_its_other_checkpoints(log: Log, tmp_path: Path) -> None:
    short = replace(log, events=log.events[:300], heads=log.heads[:3])
    export = short.write(tmp_path / "short")
    assert holds(export).head.size == 300
    put(export / "checkpoints", (log.write(tmp_path / "whole") / "checkpoints").read_bytes())
    kind, sentence = verdict(export)
    assert kind == "truncated"
    assert "The checkpoint of 400 entries in checkpoints covers more than the 300 entries" in sentence


def test_a_rollback_is_named_by_who_has_seen_more(log: Log, export: Path, tmp_path: Path) -> None:
    short = replace(log, events=log.events[:300], heads=log.heads[:3]).write(tmp_path / "short")
    state = tmp_path / "state.json"
    root = roots_of(log.entries())[500].hex()
    state.write_text(json.dumps({"checkpoint": {"size": 500, "root": root}}))
    assert holds(export, Known(seen=(state,))).head.size == SIZE
    for seen in (state, export / "checkpoint"):
        kind, sentence = verdict(short, Known(seen=(seen,)))
        assert kind == "truncated"
        assert sentence.startswith(f"{seen.name} saw")


@pytest.mark.parametrize("name", ["checkpoint", "log.vkey", "tile/0/001", "tile/1/000.p/2", "tile/entries/002.p/88"])
def test_a_missing_or_cut_file_is_named(export: Path, name: str) -> None:
    content = (export / name).read_bytes()
    (export / name).unlink()
    assert name in verdict(export)[1]
    put(export / name, content[:-5])
    assert name in verdict(export)[1]


@pytest.mark.parametrize("name", ["checkpoint", "checkpoints", "log.vkey", "log.vkeys", "tile/0/001"])
def test_an_endless_or_undecodable_file_is_named(export: Path, name: str) -> None:
    for content in (b"\xff" * 70_000, b"\xff" * 100, b"\n" * 5000, b""):
        put(export / name, content)
        assert name in verdict(export)[1]


# fork, another key


def test_a_fork_is_named_by_a_checkpoint_seen_elsewhere(log: Log, export: Path, tmp_path: Path) -> None:
    events = [*log.events]
    events[150] = Told(actor="mallory", at=150)
    fork = replace(log, events=events).write(tmp_path / "fork")
    assert holds(fork).head.size == SIZE
    assert holds(fork, Known(seen=(fork / "checkpoints",))).head.size == SIZE
    kind, sentence = verdict(fork, Known(seen=(export / "checkpoints",)))
    assert kind == "forked"
    assert sentence == "checkpoints saw another log of 200 entries: this one was forked or rewritten."


def test_two_checkpoints_of_one_size_are_a_fork(log: Log, export: Path) -> None:
    notes = (export / "checkpoints").read_text()
    other = sign_checkpoint(LOG, Checkpoint(ORIGIN, SIZE, bytes(32)), BEGIN + SIZE + 2)
    put(export / "checkpoints", (notes + other).encode())
    kind, sentence = verdict(export)
    assert kind == "forked"
    assert "another root than the one of the same size before it" in sentence


def test_a_shorter_log_signed_later_is_a_rollback(log: Log, tmp_path: Path) -> None:
    log.heads = [(500, BEGIN + 501), (400, BEGIN + 502), (600, BEGIN + 603)]
    kind, sentence = verdict(log.write(tmp_path))
    assert kind == "forked"
    assert sentence.endswith("holds a checkpoint of 400 entries after one of 500: the log was rolled back.")


def test_a_log_signed_again_by_another_key_fails_the_pinned_key(tmp_path: Path) -> None:
    forged = Log.of(5, STRANGER).write(tmp_path)
    assert not holds(forged).key_was_pinned
    kind, sentence = verdict(forged, Known(LOG.fingerprint))
    assert kind == "another-key"
    assert "not by the pinned one" in sentence


def test_one_checkpoint_by_another_key_is_named(log: Log, tmp_path: Path) -> None:
    log.signers = {2: STRANGER}
    kind, sentence = verdict(log.write(tmp_path))
    assert kind == "another-key"
    assert sentence.startswith("The checkpoint of 300 entries in checkpoints is not signed by the key")


def test_a_changed_signature_is_named(export: Path) -> None:
    flip(export / "checkpoints", 700)
    assert verdict(export)[0] in {"another-key", "malformed"}


# the log's key, rotated


SECOND, THIRD = new_signer(), new_signer()


def rotated_log() -> Log:
    """Return a log whose key was rotated twice, after 200 and after 400 entries."""
    log = Log.of(SIZE)
    for index, old, new in ((199, LOG, SECOND), (399, SECOND, THIRD)):
        payload = {"old": old.fingerprint.hex(), "new": new.fingerprint.hex()}
        log.events[index] = Told("log.key_rotated", payload, at=float(index))
    log.keys = [LOG, SECOND, THIRD]
    log.signers = {0: LOG, 1: LOG, 2: SECOND, 3: SECOND, 4: THIRD, 5: THIRD}
    return log


def test_keys_rotated_within_one_tile_are_followed(tmp_path: Path) -> None:
    log = rotated_log()
    log.events[210] = replace(log.events[399])
    log.events[399] = Told(at=399)
    log.heads[2:2] = [(211, BEGIN + 212), (211, BEGIN + 213)]
    log.signers = {0: LOG, 1: LOG, 2: SECOND, **dict.fromkeys(range(3, 8), THIRD)}
    assert holds(log.write(tmp_path)).keys == 3


def test_a_key_that_signs_beyond_the_entry_that_ends_it_is_named(tmp_path: Path) -> None:
    log = rotated_log()
    log.heads[1] = (201, BEGIN + 202)
    kind, sentence = verdict(log.write(tmp_path))
    assert kind == "another-key"
    assert "covers more than the entry that names the next key" in sentence


@pytest.mark.parametrize("pinned", [LOG, SECOND, THIRD])
def test_a_rotated_key_is_followed_along_the_log(tmp_path: Path, pinned: object) -> None:
    report = holds(rotated_log().write(tmp_path), Known(pinned.fingerprint))
    assert (report.keys, report.key.fingerprint, report.key_was_pinned) == (3, THIRD.fingerprint, True)


@pytest.mark.parametrize(("head", "signer"), [(1, SECOND), (2, LOG), (2, THIRD), (3, THIRD)])
def test_a_key_that_signs_before_or_after_its_time_is_named(tmp_path: Path, head: int, signer: object) -> None:
    log = rotated_log()
    log.signers[head] = signer
    assert verdict(log.write(tmp_path))[0] == "another-key"


def test_a_key_that_the_log_does_not_name_is_refused(tmp_path: Path) -> None:
    log = rotated_log()
    log.events[399] = Told(at=399)
    kind, sentence = verdict(log.write(tmp_path))
    assert kind == "another-key"
    log = rotated_log()
    log.events[399].payload["new"] = STRANGER.fingerprint.hex()
    kind, sentence = verdict(log.write(tmp_path))
    assert (kind, "which log.vkeys does not have so" in sentence) == ("another-key", True)


def test_a_rotation_whose_disclosure_was_erased_cannot_be_followed(tmp_path: Path) -> None:
    kind, sentence = verdict(rotated_log().write(tmp_path, disclosures={199: b""}))
    assert (kind, sentence) == ("another-key", "Entry 199 names the log's next key, and what it tells was erased.")


# time


def test_a_checkpoint_dated_back_is_named(log: Log, tmp_path: Path) -> None:
    log.heads[3] = (400, BEGIN + 250)
    kind, sentence = verdict(log.write(tmp_path))
    assert kind == "back-dated"
    assert sentence.startswith("The checkpoint of 400 entries in checkpoints is of")


def test_an_entry_later_than_its_checkpoint_is_named(log: Log, tmp_path: Path) -> None:
    log.events[330] = Told(at=2000)
    kind, sentence = verdict(log.write(tmp_path))
    assert kind == "back-dated"
    assert sentence.startswith("Entry 330 is of") and "after the checkpoint that covers it" in sentence


def test_an_entry_dated_back_needs_an_explanation(log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.events[330] = Told(at=-5000)
    export = log.write(tmp_path)
    report = holds(export)
    assert report.findings.counts == {"back-dated": 1}
    assert report.findings.sentences[0][1].startswith("Entry 330 is of")
    assert (main([str(export)]), main([str(export), "--strict"])) == (0, 1)
    assert "What needs an explanation (1):" in capsys.readouterr().out


def test_silence_is_told(log: Log, tmp_path: Path) -> None:
    log.heads[5] = (SIZE, BEGIN + SIZE + 1000)
    report = holds(log.write(tmp_path))
    assert report.findings.counts == {"silence": 1}
    assert "(500 to 600 entries)" in report.findings.sentences[0][1]


def test_a_missing_checkpoint_is_told_as_silence(tmp_path: Path) -> None:
    log = Log([Told(at=float(300 * index)) for index in range(20)])
    log.heads = [(count, BEGIN + 300 * count) for count in range(1, 21)]
    assert not holds(log.write(tmp_path / "all")).findings.counts
    del log.heads[7:9]
    assert holds(log.write(tmp_path / "without")).findings.counts == {"silence": 1}


def test_a_name_in_a_forged_export_cannot_steer_the_terminal(
    log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = log.write(tmp_path)
    line = {"device": "\x1b[2Jalice", "algorithm": "ML-DSA-44", "key": "", "cosignature": ""}
    put(export / "witnesses.jsonl", json.dumps(line).encode() + b"\n")
    assert main([str(export)]) == 1
    known = cosign_checkpoint(STRANGER, CosignedCheckpoint(ORIGIN, SIZE, bytes(32)))
    line |= {"key": b64encode(STRANGER.public).decode(), "cosignature": b64encode(known).decode()}
    put(export / "witnesses.jsonl", json.dumps(line).encode() + b"\n")
    assert main([str(export)]) == 1
    said = capsys.readouterr().err
    assert "Device ?[2Jalice in witnesses.jsonl, line 1 saw another log of 600 entries" in said
    assert "\x1b" not in said
