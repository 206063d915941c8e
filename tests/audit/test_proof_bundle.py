"""The proof of one entry stands alone: the verifier file and the log's key are all it takes."""

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from audit import services
from audit.models import Entry
from audit.proofs import entry_proof
from tests.audit.conftest import NOW
from verifier.qflare_verify import Problem, main, verify_proof

MakeLog = Callable[[int], None]
pytestmark = pytest.mark.django_db


def proof_of(index: int) -> str:
    return entry_proof(Entry.objects.select_related("event").get(index=index))


@pytest.mark.parametrize("index", [0, 41, 255, 256, 299])
def test_the_proof_of_an_entry_holds_by_itself(make_log: MakeLog, index: int) -> None:
    make_log(300)
    proved = verify_proof(proof_of(index), services.log_verifier_key())
    assert (proved.entry.index, proved.entry.kind, proved.head.size) == (index, "test.happened", 300)
    assert (proved.actor, proved.payload) == ("system", {"number": index})


def test_it_has_the_form_of_c2sp(make_log: MakeLog) -> None:
    make_log(2)
    lines = proof_of(1).split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    assert lines[1].startswith("extra ")
    assert lines[2:5] == ["index 1", base64.b64encode(bytes(Entry.objects.get(index=0).leaf_hash)).decode(), ""]
    assert "\n".join(lines[5:]) == services.current_checkpoint().note


def test_an_erased_entry_is_proved_and_tells_nothing(make_log: MakeLog) -> None:
    make_log(3)
    services.erase_disclosures([Entry.objects.get(index=1).event_id], reason="asked for", actor="operator:ada", now=NOW)
    proved = verify_proof(proof_of(1), services.log_verifier_key())
    assert (proved.entry.kind, proved.actor, proved.payload) == ("test.happened", None, None)


def test_an_entry_that_no_checkpoint_covers_has_no_proof(make_log: MakeLog) -> None:
    make_log(1)
    with pytest.raises(LookupError):
        entry_proof(Entry(index=5))


@pytest.mark.parametrize("line", range(12))
def test_a_proof_changed_in_any_line_is_refused(make_log: MakeLog, line: int) -> None:
    make_log(5)
    lines = proof_of(2).split("\n")
    assert len(lines) == 13
    lines[line] = lines[line][:-3] + ("AAA" if not lines[line].endswith("AAA") else "BBB")
    with pytest.raises(Problem) as refused:
        verify_proof("\n".join(lines), services.log_verifier_key())
    assert refused.value.kind == "proof"


@pytest.mark.parametrize("text", ["", "c2sp.org/tlog-proof@v1", "c2sp.org/tlog-proof@v1\nindex 0\n\nnote", "\n\n\n"])
def test_what_is_no_proof_is_refused(make_log: MakeLog, text: str) -> None:
    make_log(1)
    with pytest.raises(Problem):
        verify_proof(text, services.log_verifier_key())


def test_the_command_tells_what_was_proved(
    make_log: MakeLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_log(3)
    (tmp_path / "one.tlog-proof").write_text(proof_of(1))
    (tmp_path / "log.vkey").write_text(services.log_verifier_key())
    arguments = ["--proof", str(tmp_path / "one.tlog-proof"), "--key", str(tmp_path / "log.vkey")]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"Entry 1 is in the log {services.log_origin()} of 3 entries.")
    assert 'by system: {"number": 1}' in said
    (tmp_path / "one.tlog-proof").write_text(proof_of(1).replace("index 1", "index 2"))
    assert main(arguments) == 1
    assert "The proof does NOT hold." in capsys.readouterr().err
    assert main(arguments[:3] + ["ab" * 32]) == 1
    assert "pass its file" in capsys.readouterr().err
