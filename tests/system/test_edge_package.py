"""The edge package: a wheel of the client and the protocol alone, installed into a clean environment."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.system.running_site import ROOT, run_driver

PACKAGE = ROOT / "packaging" / "qflare-edge"

pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("edge package")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as pip builds it from the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    _pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", str(folder), str(PACKAGE))
    return next(folder.glob("qflare_edge-*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel, and what it names, into an environment that has nothing else."""
    folder = tmp_path_factory.mktemp("edge") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    _pip(str(folder / "bin" / "python"), "install", str(wheel))
    return folder


def _pip(python: str, *arguments: str) -> str:
    command = [python, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if "No matching distribution" in done.stderr or "NewConnectionError" in done.stderr:
        pytest.skip("pip could not fetch the packages that the edge package names")
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_wheel_holds_client_and_protocol_and_nothing_of_the_server(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        folders = {name.split("/")[0] for name in archive.namelist()}
        compiled = [name for name in archive.namelist() if name.endswith(".pyc")]
    assert {name for name in folders if not name.endswith(".dist-info")} == {"edge_client", "qflare_protocol"}
    assert compiled == []


def test_what_it_installs_knows_neither_django_nor_torch(environment: Path) -> None:
    installed = _pip(str(environment / "bin" / "python"), "list", "--format=freeze").lower()
    assert "qflare-edge==" in installed
    assert not {"django", "djangorestframework", "celery", "torch"} & {
        line.split("==")[0] for line in installed.splitlines()
    }
    _pip(str(environment / "bin" / "python"), "check")


def test_its_versions_and_ranges_fit_what_the_server_pins() -> None:
    edge = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    assert edge["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    from packaging.requirements import Requirement

    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line and "[" not in line)
    for requirement in map(Requirement, edge["dependencies"]):
        assert requirement.specifier.contains(pinned[requirement.name]), f"{requirement} excludes the tested version"


def test_three_devices_of_the_package_train_one_model(environment: Path, tmp_path: Path) -> None:
    said = run_driver("tests.system.edge_package_driver", str(environment / "bin" / "qflare-edge"), str(tmp_path))
    assert "three devices of the package trained one model" in said
