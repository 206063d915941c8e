"""The documentation site builds without a warning, loads nothing from elsewhere, and its reference is the code's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from django.apps import apps

from documentation.api_page import METHODS, api_page, operations
from documentation.commands_page import commands_page, own_management_commands
from documentation.examples_page import EXAMPLES, examples_page
from documentation.hooks import GENERATED, generated_pages
from documentation.settings_page import described_variables, settings_page
from edge_client.cli import _parser as edge_parser
from qflare_site.environment import DEFAULTS
from tests.docs.commands import commands_in, fault_of
from tests.docs.reading import ROOT, documents, rows, section

THREATS = (ROOT / "docs/threat-model.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return folder


def test_the_site_builds_without_a_warning_and_has_every_page(site):
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")} - {"404.html"}
    sources = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")} | set(GENERATED)
    expected = {source.removesuffix(".md") + ".html" for source in sources}
    assert pages == {re.sub(r"README\.html$", "index.html", page) for page in expected}


def test_no_page_loads_anything_from_elsewhere(site):
    loaded = re.compile(r'<(?:script|img|iframe|link)\b[^>]*?(?:src|href)="(?:https?:)?//[^"]*"')
    for page in site.rglob("*.html"):
        found = [tag for tag in loaded.findall(page.read_text(encoding="utf-8")) if 'rel="canonical"' not in tag]
        assert found == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\"?https?:", style.read_text(encoding="utf-8")), style


def test_the_search_is_built_in(site):
    assert (site / "search" / "search_index.json").stat().st_size > 100_000


def test_the_generated_pages_are_those_of_the_navigation():
    pages = re.findall(r"reference/[a-z]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(pages) == sorted(GENERATED) == sorted(generated_pages())


def table_rows(page):
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in page.splitlines() if line[:3] == "| `"]


def test_every_setting_is_in_the_table_with_its_default():
    shown = {row[0].strip("`"): row[2].strip("`") for row in table_rows(settings_page(DEFAULTS))}
    assert set(shown) == set(DEFAULTS)
    assert shown["QFLARE_SESSION_REQUESTS"] == "64"
    assert shown["DEBUG"] == "false"
    assert shown["ALLOWED_HOSTS"] == "127.0.0.1,localhost"
    assert shown["DATABASE_URL"] == "none"


def test_a_setting_that_is_not_described_stops_the_build():
    with pytest.raises(KeyError, match="QFLARE_NEW"):
        settings_page(DEFAULTS | {"QFLARE_NEW": 1})


def test_a_description_goes_on_over_lines():
    text = "# --- Web: and more ---\n# A_NAME=3      begins here\n#               and ends here\n# ANOTHER=\n"
    first, second = described_variables(text)
    assert (first.name, first.section, first.sentence) == ("A_NAME", "Web", "begins here and ends here")
    assert second.sentence == ""


def test_every_command_of_ours_is_on_its_page_and_none_of_django():
    page = commands_page({"qflare-edge": edge_parser()})
    headings = set(re.findall(r"^### (.+)$", page, re.MULTILINE))
    own = {
        path.stem
        for config in apps.get_app_configs()
        if Path(config.path).parent == ROOT
        for path in Path(config.path).glob("management/commands/[a-z]*.py")
    }
    assert {f"manage.py {name}" for name in own} <= headings
    assert "manage.py makemigrations" not in headings
    assert {"qflare-edge run", "qflare-edge keys rotate", "qflare-edge trust"} <= headings
    assert {name for name, _ in own_management_commands()} == own


def test_an_argument_is_shown_with_its_value_its_default_and_its_choices():
    page = commands_page({"qflare-edge": edge_parser()})
    assert "| `--metrics-port PORT` | serve them here; without it nowhere |" in page
    assert "(default: 127.0.0.1)" in page
    assert "One of affirming, warning." in page
    assert "--settings" not in page and "%(" not in page
    assert str(Path.home()) not in page.replace("~/", "")


def test_every_operation_of_the_description_is_in_the_table():
    description = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())
    expected = {(m.upper(), path) for path, members in description["paths"].items() for m in members if m in METHODS}
    assert {(one.method, one.path) for one in operations(description)} == expected
    page = api_page()
    assert all(f"| {method} | `{path}` |" in page for method, path in expected)


def test_the_examples_are_shown_as_they_are():
    page = examples_page()
    for name in EXAMPLES:
        assert (ROOT / f"edge_client/examples/{name}.py").read_text().rstrip() in page


def named_commands():
    for document in documents():
        for program, arguments in dict.fromkeys(commands_in(document.read_text(encoding="utf-8"))):
            yield pytest.param(program, arguments, id=f"{document.name}: {program}{arguments}"[:90])


@pytest.mark.parametrize(("program", "arguments"), list(named_commands()))
def test_a_command_in_a_document_exists_with_its_flags(program, arguments):
    assert fault_of(program, arguments) == ""


@pytest.mark.parametrize(
    ("program", "arguments", "fault"),
    [
        ("manage.py enroll_everybody", "", "there is no manage.py enroll_everybody"),
        ("manage.py backup", " file --too far", "there is no --too"),
        ("qflare-edge", " run --server x --speed 3", "there is no --speed"),
        ("qflare", " rounds open digits --wait", ""),
        ("qflare-edge", " keys rotate | tee x --speed", ""),
    ],
)
def test_a_command_that_does_not_exist_is_found(program, arguments, fault):
    assert fault_of(program, arguments) == fault


def named_tests():
    for document in documents():
        text = document.read_text(encoding="utf-8")
        for name in dict.fromkeys(re.findall(r"\btests/[\w/]+(?:\.\w+(?:::\w+)?)?", text)):
            yield pytest.param(name, id=f"{document.name}: {name}")


@pytest.mark.parametrize("name", list(named_tests()))
def test_a_test_that_a_document_names_exists(name):
    path, _, function = name.partition("::")
    assert (ROOT / path).exists()
    if function:
        assert re.search(rf"^def {function}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)


def test_the_threat_model_says_of_every_attacker_what_they_get_and_what_shows_it():
    table = rows(section("Who gets what", THREATS))
    assert len(table) >= 12
    for attacker, gets, stopped_by, shown_by in table:
        assert attacker and gets and stopped_by, attacker
        assert "::test_" in shown_by or shown_by.startswith("nothing:"), attacker


def test_the_figures_of_the_comparison_are_the_measured_ones():
    text = (ROOT / "docs/comparison.md").read_text(encoding="utf-8")
    measured = (ROOT / "docs/benchmarks/compare.md").read_text(encoding="utf-8")
    figures = [cells for _, *cells in rows(section("Measured side by side", text))]
    assert len(figures) >= 6
    for cells in figures:
        assert re.search(r"\| " + r" \| ".join(map(re.escape, cells)) + r" \|", measured), cells


def test_no_document_draws_by_a_program_that_is_loaded_from_elsewhere():
    assert not [path.name for path in documents() if "```mermaid" in path.read_text(encoding="utf-8")]


def variables_in(text):
    """Return the names of environment variables of ours that a text spells out whole."""
    return {name.removesuffix("_FILE") for name in re.findall(r"\bQFLARE_[A-Z0-9_]*[A-Z0-9](?![A-Z0-9_*])", text)}


def test_every_variable_that_a_document_names_is_read_somewhere():
    code = [*ROOT.glob("*/**/*.py"), *ROOT.glob("deploy/**/*"), ROOT / "Makefile", ROOT / "docker-compose.yml"]
    ours = [file for file in code if file.is_file() and not {".venv", "__pycache__", "docs"} & set(file.parts)]
    known = set().union(*(variables_in(file.read_text(encoding="utf-8", errors="ignore")) for file in ours))
    named = {(document.name, name) for document in documents() for name in variables_in(document.read_text())}
    assert len(named) > 50
    assert {(document, name) for document, name in named if name not in known} == set()
