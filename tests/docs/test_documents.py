"""Links lead somewhere, commands exist, and the example in the README runs."""

import re
import shlex

import numpy as np
import pytest
from django.core.management import get_commands, load_command_class

from documentation.hooks import GENERATED
from edge_client import cli
from edge_client.trainer import load_trainer
from qflare_protocol.tensors import decode_tensors, encode_tensors
from tests.docs.reading import README, ROOT, documents, shell_commands

COMMANDS = list(shell_commands(README))


def anchors(text):
    """Return the anchors that a renderer gives to the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links():
    """Return (document, target) of every relative link."""
    found = []
    for document in documents():
        for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                found.append(pytest.param(document, target, id=f"{document.name}: {target}"))
    return found


@pytest.mark.parametrize(("document", "target"), links())
def test_a_relative_link_resolves(document, target):
    path, _, anchor = target.partition("#")
    file = (document.parent / path) if path else document
    if file.is_relative_to(ROOT / "docs") and file.relative_to(ROOT / "docs").as_posix() in GENERATED:
        return  # made while the site is built, which tests/docs/test_site.py does
    assert file.exists()
    if anchor:
        assert anchor in anchors(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_no_document_names_a_place_on_somebody_elses_machine(document):
    assert not re.search(r"/(work|home|root)/", document.read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("make ")])
def test_a_make_target_of_the_readme_exists(command):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert shlex.split(command)[1] in targets


def management_commands():
    """Yield (name, arguments) of every management command the README runs, on this host or in a container."""
    for line in COMMANDS:
        words = shlex.split(line.split(" && ")[0])
        if "manage.py" in words:
            name, *arguments = words[words.index("manage.py") + 1 :]
            yield pytest.param(name, arguments, id=" ".join([name, *arguments])[:60])
        elif words[:2] == ["make", "demo"] and len(words) > 2:
            yield pytest.param("demo", shlex.split(words[2].removeprefix("ARGS=")), id=words[2])


@pytest.mark.parametrize(("name", "arguments"), list(management_commands()))
def test_a_management_command_of_the_readme_takes_its_arguments(name, arguments):
    command = load_command_class(get_commands()[name], name)
    command.create_parser("manage.py", name).parse_args(arguments)


def edge_commands():
    """Yield the arguments of every command for a device."""
    for line in COMMANDS:
        words = shlex.split(line)
        program = next((word for word in words if word.endswith("qflare-edge")), None)
        if program is None and "run --rm edge" in line:
            program = "edge"
        if program is not None:
            arguments = words[len(words) - words[::-1].index(program) :]
            yield pytest.param(arguments, id=" ".join(arguments)[-60:])


@pytest.mark.parametrize("arguments", list(edge_commands()))
def test_a_device_command_of_the_readme_takes_its_arguments(arguments):
    assert callable(cli._parser().parse_args(arguments).command)


def test_the_readme_names_both_commands_of_a_newcomer():
    assert any(line.startswith("make demo") for line in COMMANDS)
    assert "make test" in COMMANDS


def test_the_training_code_of_the_readme_learns_the_line(tmp_path, monkeypatch):
    source = re.search(r"```python\n(.+?)```", README, re.DOTALL)
    assert source
    (tmp_path / "trend.py").write_text(source[1])
    x = np.linspace(-1, 1, 50, dtype=np.float32)
    np.savez(tmp_path / "readings.npz", x=x, y=(3 * x + 1).astype(np.float32))
    monkeypatch.syspath_prepend(tmp_path)
    trainer = load_trainer("trend:TrendTrainer", {}, {"data": str(tmp_path / "readings.npz")})
    model = decode_tensors(encode_tensors(trainer.initial_model()))
    for round_number in range(1, 4):
        outcome = trainer.train(model, round_number)
        model = decode_tensors(encode_tensors(outcome.model))
    assert outcome.sample_count == 50
    assert trainer.evaluate(model)["slope"] == pytest.approx(3.0, abs=0.05)


def required(file):
    """Return the package names of a requirements file."""
    lines = (ROOT / file).read_text().splitlines()
    # What is installed without its dependencies stands in a comment, since a requirements file cannot say that.
    return {re.split(r"[\[=]", line.removeprefix("# "))[0] for line in lines if "==" in line}


@pytest.mark.parametrize(
    ("heading", "file"),
    [
        ("At run time", "requirements.txt"),
        ("For tests and checks", "requirements-dev.txt"),
        ("For benchmarks", "requirements-bench.txt"),
        ("For an anchor on a chain", "requirements-anchors.txt"),
        ("For blobs in S3", "requirements-s3.txt"),
        ("For traces", "requirements-otel.txt"),
    ],
)
def test_every_requirement_has_its_reason_and_no_other_does(heading, file):
    text = (ROOT / "docs/dependencies.md").read_text().partition(f"## {heading}")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| ([\w.-]+) \|", text, re.MULTILINE)) - {"package"}
    assert listed == required(file)


def test_decisions_are_numbered_without_gaps_and_name_problem_choice_and_why():
    files = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert all(f"**{part}.**" in text for part in ("Problem", "Options", "Choice", "Why")), file.name
