"""The second client, clients/node, against a real site: written from docs/protocol.md alone, in another language."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.system.running_site import ROOT, run_driver

CLIENT = ROOT / "clients" / "node"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("whole system"),
    pytest.mark.skipif(
        shutil.which("node") is None or shutil.which("npm") is None, reason="the Node client needs node and npm"
    ),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the client and install its pinned packages; skip where npm cannot fetch them."""
    folder = tmp_path_factory.mktemp("node-client") / "node"
    shutil.copytree(CLIENT, folder, ignore=shutil.ignore_patterns("node_modules"))
    command = ["npm", "ci", "--omit=dev", "--prefer-offline", "--no-audit", "--no-fund"]
    done = subprocess.run(  # noqa: S603 - our own command
        command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"npm could not install the Node client's packages: {reason}")
    return folder


def test_the_node_client_enrols_rekeys_rotates_its_keys_and_has_its_updates_accepted(
    client: Path, tmp_path: Path
) -> None:
    output = run_driver("tests.system.node_client_driver", str(client), str(tmp_path), timeout_seconds=600)
    assert "took part in two rounds" in output


def test_the_node_client_says_what_it_can_do_and_refuses_what_it_does_not_know(client: Path) -> None:
    command = ["node", str(client / "bin" / "qflare-node.mjs")]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    assert shown.returncode == 0
    assert "rotate-keys" in shown.stdout
    wrong = subprocess.run([*command, "unknown"], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    assert wrong.returncode == 1
    assert "no such command" in wrong.stderr
