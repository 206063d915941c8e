"""An auditor with an export and a key learns that it holds, and by which key."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qflare_protocol.audit_entry import GENESIS_HASH, AuditEntry, commitment
from qflare_protocol.checkpoint import format_verifier_key
from tests.verifier.exports import BEGIN, LOG, ORIGIN, STRANGER, Log, Told, flip, holds, put, roots_of, verdict
from verifier import qflare_verify
from verifier.qflare_verify import Known, main

SIZE = 600


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return Log.of(SIZE).write(tmp_path / "export")


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 513])
def test_a_sound_export_holds(tmp_path: Path, size: int) -> None:
    log = Log.of(size)
    report = holds(log.write(tmp_path))
    assert (report.head.size, report.head.origin, report.head.root) == (size, ORIGIN, roots_of(log.entries())[size])
    assert (report.head.time, report.checkpoints) == (BEGIN + size + 1, len(log.heads))
    assert not report.key_was_pinned
    assert not report.findings.counts


def test_a_log_of_many_tiles_holds(tmp_path: Path) -> None:
    log = Log.of(256 * 256 + 300, every=30_000)
    export = log.write(tmp_path)
    assert holds(export).head.root == roots_of(log.entries())[-1]
    flip(export / "tile/1/000", 32 * 200)
    assert verdict(export) == ("changed", "Hash 200 in tile/1/000 is not that of the tile below it.")


def test_every_size_between_bundles_can_be_signed(tmp_path: Path) -> None:
    log = Log.of(520)
    log.heads = [(size, BEGIN + size + 1) for size in (1, 2, 2, 3, 255, 256, 257, 511, 512, 513, 520)]
    assert holds(log.write(tmp_path)).checkpoints == 11


def test_a_pinned_key_is_reported_as_such(export: Path) -> None:
    assert holds(export, Known(LOG.fingerprint)).key_was_pinned


def test_an_export_of_its_last_checkpoint_alone_holds_and_says_so(export: Path) -> None:
    (export / "checkpoints").unlink()
    assert holds(export).findings.counts == {"one-checkpoint": 1}


def test_an_erased_disclosure_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = Log.of(5).write(tmp_path, disclosures={1: b"", 4: b""})
    assert holds(export).erased == 2
    main([str(export)])
    assert "2 entries were erased" in capsys.readouterr().out


def test_entries_from_before_1971_and_of_every_form_of_payload_are_read(tmp_path: Path) -> None:
    payloads = [{}, {"é": "ü"}, {"list": [1, None, True, 0.5, -3]}, {"long": "x" * 300}, {"deep": {"er": {}}}]
    log = Log([Told(payload=payload, at=-float(BEGIN)) for payload in payloads], [(5, BEGIN)])
    assert holds(log.write(tmp_path)).head.size == 5


def test_the_command_says_in_plain_words_that_the_log_holds(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(export), "--key", LOG.fingerprint.hex()]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"The log holds: 600 entries of {ORIGIN}")
    assert "6 checkpoints agree with it and with each other." in said
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


def test_the_command_answers_programs_in_json(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(export), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["holds"], said["entries"], said["key_fingerprint"]) == (True, 600, LOG.fingerprint.hex())
    flip(export / "tile/0/000", 0)
    assert main([str(export), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problem"] == "changed"


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


ISOLATED = """
import importlib.abc, runpy, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {"cryptography", "_cffi_backend", "cffi"} | sys.stdlib_module_names:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
sys.path.append(sys.argv[1])
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_one_file_runs_where_only_cryptography_can_be_imported(export: Path, tmp_path: Path) -> None:
    import cryptography

    packages = Path(cryptography.__file__).parents[1]
    alone = tmp_path / "qflare_verify.py"
    alone.write_bytes(Path(qflare_verify.__file__).read_bytes())

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-S", "-c", ISOLATED, str(packages), str(alone), str(export)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    ran = run()
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("The log holds: 600 entries")
    flip(export / "tile/0/000", 0)
    ran = run()
    assert ran.returncode == 1
    assert "Entry 0 in tile/entries/000 was changed" in ran.stderr


def test_an_entry_that_commits_to_no_disclosure_is_named(tmp_path: Path) -> None:
    entry = AuditEntry(0, 0, "test.happened", commitment(b"junk"), GENESIS_HASH).to_bytes()
    export = Log([Told()], [(1, BEGIN)]).write(tmp_path, [entry], {0: b"junk"})
    assert verdict(export)[0] == "malformed"
    assert "The disclosure of entry 0 in disclosures/000.p/1" in verdict(export)[1]
