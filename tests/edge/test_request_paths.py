"""Paths of sealed requests: only characters that no proxy or framework writes in another way."""

import ast
import re

import pytest

from tests.docs.reading import ROOT

ALLOWED = re.compile(r"[A-Za-z0-9\-._~/?=&]+")


def paths():
    """Return every path that the client's code spells out, a variable part standing as `0`."""
    found = set()
    for file in sorted((ROOT / "edge_client").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "0" for part in parts)
            if text.startswith("/api/"):
                found.add(text)
    return found


@pytest.mark.parametrize("path", sorted(paths()))
def test_a_path_needs_no_escaping(path):
    assert ALLOWED.fullmatch(path)


def test_the_paths_found_are_those_of_a_whole_client():
    assert {"/api/challenge", "/api/work", "/api/submit_model", "/api/session/rekey", "/api/keys/rotate"} <= paths()
    assert any(path.startswith("/api/global_model?federation=0&version=0") for path in paths())
