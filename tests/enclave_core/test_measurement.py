import shutil

import pytest

from enclave.core import measurement
from enclave.core.measurement import ROOT, measure, source_files


@pytest.fixture
def copy(tmp_path):
    for file in source_files():
        target = tmp_path / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return tmp_path


def test_the_same_sources_elsewhere_have_the_same_measurement(copy):
    assert measure(copy) == measure()
    assert len(measure()) == 64


def test_the_measured_files_are_those_that_the_sealed_process_runs():
    names = {file.relative_to(ROOT).as_posix() for file in source_files()}
    assert {"enclave/__init__.py", "enclave/core/aggregation.py", "qflare_protocol/hpke.py"} <= names
    assert {"qflare_protocol/attestation/evidence.py", "qflare_protocol/pqc/registry.py"} <= names
    assert "enclave/courier.py" not in names


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "enclave/core/rules/filters.py").write_text("# nothing is screened\n"),
        lambda root: (root / "enclave/core/extra.py").write_text(""),
        lambda root: (root / "enclave/__init__.py").write_text("import os\n"),
        lambda root: (root / "qflare_protocol/hpke.py").unlink(),
        lambda root: (root / "qflare_protocol/hpke.py").rename(root / "qflare_protocol/hpke2.py"),
    ],
    ids=["altered", "added", "package", "removed", "renamed"],
)
def test_a_changed_source_changes_the_measurement(copy, change):
    change(copy)
    assert measure(copy) != measure()


def test_other_files_do_not_change_it(copy):
    (copy / "enclave/courier.py").write_text("x = 1\n")
    (copy / "enclave/core/notes.txt").write_text("notes")
    assert measure(copy) == measure()


def test_another_library_version_changes_it(copy, monkeypatch):
    before = measure()
    monkeypatch.setattr(measurement, "version", lambda name: "0.0")
    assert measure(copy) != before
