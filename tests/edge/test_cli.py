"""`qflare-edge` as people call it, without a server."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_client.cli import main
from tests.edge.trainers import SmallTrainer

TRAINER = "tests.edge.trainers:SmallTrainer"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for command in ("enroll", "run", "train-once", "status", "preflight", "trust", "evaluate", "initial-model"):
        assert command in shown


def test_a_model_is_made_and_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model.safetensors"
    assert main(["initial-model", "--trainer", TRAINER, "--output", str(model)]) == 0
    assert model.stat().st_mode & 0o777 == 0o600
    assert main(["evaluate", "--trainer", TRAINER, "--model", str(model)]) == 0
    assert json.loads(capsys.readouterr().out) == SmallTrainer({}, {}).evaluate(SmallTrainer({}, {}).initial_model())


def test_status_before_enrolment_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--home", str(tmp_path), "--key-file", str(tmp_path / "key"), "status"])
    assert status == 2
    assert "enrol this device first" in capsys.readouterr().err


def test_run_before_enrolment_asks_for_server_and_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--home", str(tmp_path), "--key-file", str(tmp_path / "key"), "run", "--trainer", TRAINER])
    assert status == 2
    assert "--server" in capsys.readouterr().err


def test_a_wrong_trainer_is_named_before_anything_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--home", str(tmp_path), "run", "--trainer", "nowhere:Nobody"]) == 2
    assert "cannot be imported" in capsys.readouterr().err


def test_an_unreachable_server_has_an_exit_status_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from qflare_protocol.enrolment import EnrolmentToken

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    token = EnrolmentToken.generate(bytes(range(32))).to_text()
    folder = ["--home", str(tmp_path), "--key-file", str(tmp_path / "key")]
    assert main([*folder, "enroll", "--server", "http://127.0.0.1:9", "--token", token]) == 3
    assert "cannot be reached" in capsys.readouterr().err
    assert not (tmp_path / "keys.sealed").exists()


def test_pins_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ["--home", str(tmp_path)]
    assert main([*folder, "trust", "--attestation-key", "ab" * 32, "--measurement", "cd" * 64]) == 0
    assert json.loads((tmp_path / "state.json").read_text())["attestation_keys"] == ["ab" * 32]
    assert main([*folder, "trust"]) == 2


def test_nothing_is_pinned_while_a_client_runs_that_would_write_its_own_pins_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "lock").open("w") as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        assert main(["--home", str(tmp_path), "trust", "--measurement", "cd" * 64]) == 2
    assert "stop it first" in capsys.readouterr().err
    assert not (tmp_path / "state.json").exists()


def test_a_trainer_option_without_a_value_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["initial-model", "--trainer", TRAINER, "--output", str(tmp_path / "m"), "--option", "shard"]
    assert main(arguments) == 2
    assert "NAME=VALUE" in capsys.readouterr().err


def test_the_light_commands_do_not_import_torch() -> None:
    code = "import sys, edge_client.cli; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603


def test_training_code_is_found_in_the_folder_one_stands_in(tmp_path: Path) -> None:
    (tmp_path / "trend.py").write_text("from tests.edge.trainers import SmallTrainer as TrendTrainer\n")
    command = [sys.executable, "-P", "-m", "edge_client", "initial-model"]
    command += ["--trainer", "trend:TrendTrainer", "--output", str(tmp_path / "m.safetensors")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stderr
