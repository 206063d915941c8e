"""The catalogue: every code that is raised stands in it, and every row of it is used."""

import ast
import re
from pathlib import Path

import pytest

from qflare_protocol.errors import CATALOGUE, TYPE_PREFIX, Refusal

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "qflare_protocol", "edge_client", "keyring", "audit", "devices", "enrollment", "sessions", "enclave", "training",
    "monitor", "operator_admin", "operator_access", "operator_api", "qflare_site",
)  # fmt: skip
SOURCES = [
    path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if path != ROOT / "qflare_protocol" / "errors.py" and "migrations" not in path.parts
]


def calls(tree):
    """Yield the first argument of every `Refusal(...)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refusal" and node.args:
            yield node.args[0]


def strings(tree):
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_code_that_is_raised_stands_in_the_catalogue(path):
    literals = {node.value for node in calls(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
    assert literals <= set(CATALOGUE), literals - set(CATALOGUE)


def test_every_row_of_the_catalogue_is_used():
    used = set().union(*(strings(ast.parse(path.read_text())) for path in SOURCES))
    assert set(CATALOGUE) <= used, set(CATALOGUE) - used


@pytest.mark.parametrize("problem", CATALOGUE.values(), ids=CATALOGUE.keys())
def test_a_row_is_an_http_error_with_a_public_sentence(problem):
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", problem.code)
    assert 400 <= problem.status <= 599
    assert problem.title[0].isupper()
    assert problem.title.endswith(".")


def test_titles_tell_the_rows_apart():
    assert len({problem.title for problem in CATALOGUE.values()}) == len(CATALOGUE)


def test_a_refusal_becomes_problem_details():
    refusal = Refusal("token-used", "Ask for a new one.", retry_after_seconds=3)
    assert refusal.as_problem_details() == {
        "type": TYPE_PREFIX + "token-used",
        "title": CATALOGUE["token-used"].title,
        "status": 403,
        "detail": "Ask for a new one.",
        "retry_after_seconds": 3,
    }
    assert str(refusal) == "token-used: Ask for a new one."


def test_an_unlisted_refusal_is_a_defect():
    with pytest.raises(KeyError):
        Refusal("no-such-code", "x")


def test_members_of_a_hostile_problem_do_not_collide_with_arguments():
    extensions = {"code": "x", "detail": "y", "self": "z"}
    assert Refusal("token-used", "Ask for a new one.", **extensions).extensions == extensions


def test_a_refusal_carries_its_event():
    refusal = Refusal("token-used", "x").with_event("token.refused", actor="stranger", reason="token-used")
    assert (refusal.audit_event.kind, refusal.audit_event.actor) == ("token.refused", "stranger")
    assert refusal.audit_event.payload == {"reason": "token-used"}
    assert Refusal("token-used", "x").audit_event is None
