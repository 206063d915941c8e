"""Every domain-separation label that the code uses, found in its syntax tree."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.docs.reading import ROOT

PACKAGES = (
    "qflare_protocol", "edge_client", "enclave", "keyring", "audit", "devices", "enrollment", "sessions", "training",
    "monitor",
)  # fmt: skip
# Where a label is made of a variable, its values: the only ones the code passes.
VARIABLES = {"side": ("device", "server"), "direction": ("request", "answer"), "purpose": ("traffic",)}
_FIRST_ARGUMENT = frozenset({"label", "digest"})
_SECOND_ARGUMENT = frozenset({"expand", "mac"})
_KEYWORD = frozenset({"sign1", "verify1", "unverified_payload"})
# Modules that make labels of whatever purpose they are given: only what they spell out counts there.
_DEFINITIONS = ("qflare_protocol/encoding.py", "qflare_protocol/kdf.py", "qflare_protocol/cose.py")


def labels_in_code() -> set[str]:
    """Return the purposes of all calls."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return {purpose for file in files for purpose in _labels_of(file)}


def _labels_of(file: Path) -> Iterator[str]:
    tree, names = ast.parse(file.read_text(encoding="utf-8")), _constants_of(file)
    defining = file.relative_to(ROOT).as_posix() in _DEFINITIONS
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            expression = _purpose_of(node)
            if expression is not None and not (defining and isinstance(expression, ast.Name)):
                yield from _values(expression, names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, bytes):
            yield from re.findall(r"^QFLARE/1 ([a-z-]+(?: [a-z-]+)*)\n?$", node.value.decode("latin-1"))


@cache
def _constants_of(file: Path) -> dict[str, object]:
    """Return the constants that a module assigns or imports from a module of the house, by name."""
    names: dict[str, object] = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            names |= {target.id: node.value.value for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom) and node.module:
            origin = ROOT / (node.module.replace(".", "/") + ".py")
            if origin.exists():
                imported = _constants_of(origin)
                names |= {alias.name: imported[alias.name] for alias in node.names if alias.name in imported}
    return names


def _purpose_of(call: ast.Call) -> ast.expr | None:
    name = call.func.id if isinstance(call.func, ast.Name) else None
    if name in _FIRST_ARGUMENT and call.args:
        return call.args[0]
    if name in _SECOND_ARGUMENT:
        return call.args[1] if len(call.args) > 1 else None
    if name in _KEYWORD:
        return next((keyword.value for keyword in call.keywords if keyword.arg == "purpose"), None)
    return None


def _values(expression: ast.expr, constants: dict[str, object]) -> list[str]:
    """Return the purposes an expression stands for; "?" and its source where that cannot be told."""
    if isinstance(expression, ast.Constant):
        return [str(expression.value)]
    if isinstance(expression, ast.Name) and expression.id in constants:
        return [str(constants[expression.id])]
    if isinstance(expression, ast.Name) and expression.id in VARIABLES:
        return list(VARIABLES[expression.id])
    if isinstance(expression, ast.JoinedStr):
        texts = [""]
        for part in expression.values:
            choices = [part.value] if isinstance(part, ast.Constant) else VARIABLES.get(ast.unparse(part.value), ("?",))
            texts = [text + str(choice) for text in texts for choice in choices]
        return texts
    return [f"? {ast.unparse(expression)}"]
