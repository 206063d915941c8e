"""An auditor with an export and a key finds any change, and is told which file and entry it is in."""

import subprocess
import sys
from pathlib import Path

import pytest

from qflare_protocol import log_tiles, pqc
from qflare_protocol.audit_entry import GENESIS_HASH, AuditEntry, Disclosure, commitment, entry_hash
from qflare_protocol.checkpoint import Checkpoint, format_verifier_key, sign_checkpoint
from qflare_protocol.cose import Signer
from qflare_protocol.log_verifier import LogRefusedError, main, verify_export
from qflare_protocol.merkle import CompactTree, leaf_hash

ORIGIN = "qflare.example/log"
SIZE = 600


def new_signer() -> Signer:
    pair = pqc.signature("ML-DSA-44").generate()
    return Signer("ML-DSA-44", pair.private, pair.public)


LOG, STRANGER = new_signer(), new_signer()


def disclosure(index: int, actor: str = "system") -> bytes:
    return Disclosure(bytes(32), actor, {"n": index}).to_bytes()


def chain(size: int, actors: dict[int, str] | None = None) -> list[bytes]:
    """Return a chain of entries; `actors` replaces the actor of some."""
    entries, previous = [], GENESIS_HASH
    for index in range(size):
        actor = (actors or {}).get(index, "system")
        told = commitment(disclosure(index, actor))
        entries.append(AuditEntry(index, index, "test.happened", told, previous).to_bytes())
        previous = entry_hash(entries[-1])
    return entries


def write_log(
    folder: Path, entries: list[bytes], signer: Signer = LOG, disclosures: dict[int, bytes] | None = None
) -> Path:
    """Write an export whose tiles, root and signature are made from the entries as they are."""
    tree, levels = CompactTree(), {level: b"" for level in range(64)}
    for data in entries:
        for node in tree.append(leaf_hash(data)):
            if node.level % 8 == 0:
                levels[node.level // 8] += node.hash
    for level in log_tiles.tile_levels(len(entries)):
        for index, width in log_tiles.tiles(len(entries), level):
            first = index * 256
            put(folder / log_tiles.tile_path(level, index, width), levels[level][first * 32 : (first + width) * 32])
            if level == 0:
                bundle = b"".join(map(log_tiles.frame_entry, entries[first : first + width]))
                put(folder / log_tiles.tile_path("entries", index, width), bundle)
                told = [(disclosures or {}).get(number, disclosure(number)) for number in range(first, first + width)]
                put(folder / log_tiles.disclosures_path(index, width), b"".join(map(log_tiles.frame_entry, told)))
    put(folder / "log.vkey", format_verifier_key(ORIGIN, signer.verifier).encode() + b"\n")
    note = sign_checkpoint(signer, Checkpoint(ORIGIN, len(entries), tree.root()), 1_800_000_000)
    put(folder / "checkpoint", note.encode())
    return folder


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write_log(tmp_path / "export", chain(SIZE))


def verdict(folder: Path) -> str:
    with pytest.raises(LogRefusedError) as refused:
        verify_export(folder)
    return str(refused.value)


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 513])
def test_a_sound_export_holds(tmp_path: Path, size: int) -> None:
    report = verify_export(write_log(tmp_path, chain(size)))
    assert (report.signed.checkpoint.size, report.signed.checkpoint.origin) == (size, ORIGIN)
    assert report.signed.timestamp == 1_800_000_000
    assert not report.key_was_pinned


def test_a_changed_entry_is_named(export: Path) -> None:
    bundle = export / "tile/entries/001"
    content = bundle.read_bytes()
    position = content.index(chain(SIZE)[300]) + 20
    flip(bundle, position)
    assert verdict(export) == "Entry 300 in tile/entries/001 does not have the hash that tile/0/001 states for it."


def test_a_changed_hash_in_a_tile_is_named(export: Path) -> None:
    flip(export / "tile/0/002.p/88", 7 * 32)
    assert "Entry 519 in tile/entries/002.p/88 does not have the hash that tile/0/002.p/88" in verdict(export)


def test_a_changed_hash_in_an_upper_tile_is_named(export: Path) -> None:
    flip(export / "tile/1/000.p/2", 32)
    assert verdict(export) == "Hash 1 in tile/1/000.p/2 is not that of the tile below it."


def test_an_entry_changed_with_its_tile_breaks_the_next_link(tmp_path: Path) -> None:
    entries = chain(SIZE)
    entries[40] = chain(41, {40: "mallory"})[40]
    export = write_log(tmp_path, entries, disclosures={40: disclosure(40, "mallory")})
    assert verdict(export).startswith("Entry 41 in tile/entries/000 does not follow the entry")


def test_a_log_rewritten_whole_does_not_have_the_signed_root(export: Path, tmp_path: Path) -> None:
    forged = write_log(
        tmp_path / "forged", chain(SIZE, {599: "mallory"}), disclosures={599: disclosure(599, "mallory")}
    )
    (forged / "checkpoint").write_bytes((export / "checkpoint").read_bytes())
    assert verdict(forged) == "checkpoint: its root is not that of the 600 entries in the export."


def test_a_log_rewritten_and_signed_by_another_key_fails_the_pinned_key(tmp_path: Path) -> None:
    forged = write_log(tmp_path, chain(5, {3: "mallory"}), STRANGER, {3: disclosure(3, "mallory")})
    assert not verify_export(forged).key_was_pinned
    for pinned in (LOG.verifier, LOG.fingerprint):
        with pytest.raises(LogRefusedError, match="not by the pinned one"):
            verify_export(forged, pinned)


def test_a_pinned_key_is_reported_as_such(export: Path) -> None:
    assert verify_export(export, LOG.verifier).key_was_pinned
    assert verify_export(export, LOG.fingerprint).key_was_pinned


def test_a_changed_disclosure_is_named(tmp_path: Path) -> None:
    export = write_log(tmp_path, chain(5), disclosures={3: disclosure(3, "mallory")})
    place = "The disclosure of entry 3 in disclosures/000.p/5"
    assert verdict(export) == f"{place} was changed: the entry commits to another one."


def test_an_erased_disclosure_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = write_log(tmp_path, chain(5), disclosures={1: b"", 4: b""})
    assert verify_export(export).erased == 2
    main([str(export)])
    assert "2 entries were erased" in capsys.readouterr().out


def test_a_disclosure_that_is_committed_to_and_is_none_is_named(tmp_path: Path) -> None:
    entry = AuditEntry(0, 0, "test.happened", commitment(b"junk"), GENESIS_HASH).to_bytes()
    assert "disclosures/000.p/1" in verdict(write_log(tmp_path, [entry], disclosures={0: b"junk"}))


def test_entries_in_another_order_are_named(tmp_path: Path) -> None:
    entries = chain(5)
    entries[2], entries[3] = entries[3], entries[2]
    assert verdict(write_log(tmp_path, entries)) == "Entry 2 in tile/entries/000.p/5 says that it is entry 3."


def test_an_entry_that_is_no_entry_is_named(tmp_path: Path) -> None:
    assert verdict(write_log(tmp_path, [*chain(3), b"junk"])).startswith("Entry 3 in tile/entries/000.p/4: ")


@pytest.mark.parametrize("name", ["checkpoint", "log.vkey", "tile/0/001", "tile/1/000.p/2", "tile/entries/002.p/88"])
def test_a_missing_file_is_named(export: Path, name: str) -> None:
    (export / name).unlink()
    assert verdict(export) == f"{export / name} cannot be read: No such file or directory."


@pytest.mark.parametrize("name", ["checkpoint", "log.vkey", "tile/0/001", "tile/1/000.p/2", "tile/entries/002.p/88"])
def test_a_truncated_file_is_named(export: Path, name: str) -> None:
    (export / name).write_bytes((export / name).read_bytes()[:-5])
    assert name in verdict(export)


@pytest.mark.parametrize("name", ["checkpoint", "log.vkey", "tile/0/001"])
def test_an_endless_or_undecodable_file_is_named(export: Path, name: str) -> None:
    (export / name).write_bytes(b"\xff" * 70_000)
    assert name in verdict(export)
    (export / name).write_bytes(b"\xff" * 100)
    assert name in verdict(export)


def test_the_command_says_in_plain_words_that_the_log_holds(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(export), "--key", LOG.fingerprint.hex()]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"The log holds: 600 entries of {ORIGIN}")
    assert f"by the key you pinned, fingerprint {LOG.fingerprint.hex()}" in said
    assert "NOT pinned" not in said


def test_the_command_says_when_the_key_was_not_pinned(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(export)]) == 0
    assert "The key itself was NOT pinned" in capsys.readouterr().out


def test_the_command_takes_a_key_file(export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "mine.vkey", format_verifier_key(ORIGIN, LOG.verifier).encode())
    put(tmp_path / "other.vkey", format_verifier_key(ORIGIN, STRANGER.verifier).encode())
    assert main([str(export), "--key", str(tmp_path / "mine.vkey")]) == 0
    assert main([str(export), "--key", str(tmp_path / "other.vkey")]) == 1
    assert "The log does NOT hold." in capsys.readouterr().err


@pytest.mark.parametrize("key", ["nonsense", "zz" * 32, "ab" * 31])
def test_the_command_refuses_a_key_that_is_none(export: Path, key: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(export), "--key", key])
    assert ended.value.code == 2


def test_the_command_refuses_a_key_file_without_a_key(export: Path, tmp_path: Path) -> None:
    put(tmp_path / "empty.vkey", b"")
    with pytest.raises(SystemExit) as ended:
        main([str(export), "--key", str(tmp_path / "empty.vkey")])
    assert ended.value.code == 2


def test_the_module_runs_alone_and_without_django(export: Path) -> None:
    flip(export / "tile/0/000", 0)
    code = "import sys; sys.modules['django'] = None; from qflare_protocol.log_verifier import main; sys.exit(main())"
    ran = subprocess.run([sys.executable, "-c", code, str(export)], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "Entry 0 in tile/entries/000 does not have the hash" in ran.stderr
