"""The systemd units: the processes of compose, confined."""

import os
import shlex
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "deploy" / "systemd"
PROCESSES = ("web", "worker", "audit", "enclave", "beat")
CONFINED = {
    "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes", "UMask": "0077",
    "CapabilityBoundingSet": "", "LimitCORE": "0", "User": "qflare", "StateDirectoryMode": "0700",
}  # fmt: skip


def service(name):
    unit = ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str
    unit.read(UNITS / f"qflare-{name}.service")
    return dict(unit["Service"])


def test_the_target_starts_every_process_and_nothing_else():
    wanted = (UNITS / "qflare.target").read_text().split("Wants=")[1].split("\n")[0].split()
    assert wanted == [f"qflare-{name}.service" for name in PROCESSES]
    assert {file.name for file in UNITS.iterdir()} == {*wanted, "qflare.target"}


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_has_no_rights_and_writes_its_own_folder_only(name):
    assert CONFINED.items() <= service(name).items()


@pytest.mark.parametrize("name", [name for name in PROCESSES if name != "web"])
def test_a_process_is_started_as_in_compose(name):
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"][name]["command"]
    program, *arguments = shlex.split(service(name)["ExecStart"].replace("%%", "%"))
    assert [Path(program).name, *arguments] == [str(part) for part in composed]


def test_only_the_enclave_worker_may_make_namespaces():
    free = [name for name in PROCESSES if service(name).get("RestrictNamespaces") != "yes"]
    assert free == ["enclave"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
@pytest.mark.parametrize("file", sorted(UNITS.iterdir()), ids=lambda file: file.name)
def test_systemd_understands_every_line(file, tmp_path):
    for unit in UNITS.iterdir():
        lines = unit.read_text().splitlines()
        changed = ["ExecStart=/bin/true" if line.startswith("ExecStart=") else line for line in lines]
        (tmp_path / unit.name).write_text("\n".join(changed))
    command = ["systemd-analyze", "verify", "--recursive-errors=no", str(tmp_path / file.name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert [line for line in done.stderr.splitlines() if file.name in line] == []


def test_a_starting_web_forgets_the_numbers_of_processes_that_are_no_more(tmp_path):
    command = service("web")["ExecStartPre"].removeprefix("-").replace("$$", "$").replace("%%", "%")
    alive = tmp_path / f"counter_{os.getpid()}.db"
    for file in (alive, tmp_path / "counter_99999999.db", tmp_path / "histogram_99999999.db"):
        file.touch()
    subprocess.run(shlex.split(command.replace("/var/lib/qflare/metrics", str(tmp_path))), check=True, timeout=20)
    assert list(tmp_path.iterdir()) == [alive]
