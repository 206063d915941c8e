"""What the sealed process signed reaches the auditor, and agrees with what the log says was published."""

from pathlib import Path

import pytest

from audit.export import export_log
from audit.services import current_checkpoint, sequence_log
from tests.open_rounds import make_federation
from tests.people import Person
from tests.training.whole_rounds import HONEST, aggregated, collected
from training.models import ModelVersion, RoundState
from verifier.qflare_verify import Problem, verify_export

pytestmark = pytest.mark.usefixtures("destroyed_round_keys")


def exported(folder: Path) -> Path:
    sequence_log()
    export_log(current_checkpoint(), folder)
    return folder


@pytest.fixture
def completed(fleet: list[Person]) -> None:
    """Two rounds of one federation, by the real sealed process."""
    federation = make_federation()
    for _ in range(2):
        assert aggregated(collected(federation, fleet, [HONEST] * 4)).state == RoundState.COMPLETED
        federation.refresh_from_db()


def test_the_results_of_real_rounds_agree_with_the_log(completed: None, tmp_path: Path) -> None:
    report = verify_export(exported(tmp_path / "export"))
    assert (report.results, report.findings.counts) == (2, {})


def test_a_result_that_was_changed_in_the_database_is_found_out(completed: None, tmp_path: Path) -> None:
    exported(tmp_path / "before")
    other, first = ModelVersion.objects.exclude(provenance=None).order_by("-number")[:2]
    ModelVersion.objects.filter(pk=first.pk).update(provenance=bytes(other.provenance))
    report = verify_export(exported(tmp_path / "after"))
    assert (report.results, report.findings.counts) == (1, {"missing-result": 1})
    ModelVersion.objects.filter(pk=first.pk).update(provenance=b"junk")
    assert verify_export(exported(tmp_path / "junk")).results == 1


def test_a_result_that_was_changed_in_the_export_is_named(completed: None, tmp_path: Path) -> None:
    export = exported(tmp_path / "export")
    one, other = sorted((export / "results").iterdir())
    one.write_bytes(other.read_bytes())
    with pytest.raises(Problem, match="does not have the digest that the entry states"):
        verify_export(export)
