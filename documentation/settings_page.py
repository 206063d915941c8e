"""The reference of settings: every variable of `qflare_site.environment` with what `.env.example` says of it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_VARIABLE = re.compile(r"# ([A-Z][A-Z0-9_]*)=(\S*(?:\s\S+)*?)(?:\s{2,}(.*))?$")
_CONTINUED = re.compile(r"#\s{10,}(\S.*)$")
_SECTION = re.compile(r"# --- (.+) ---$")
_KINDS = {bool: "true or false", int: "whole number", list: "list, divided by commas", str: "text"}
_HEADING = """# Settings

Every setting is an environment variable. `NAME_FILE` names a file that holds the value of `NAME` instead, which is how
secrets should arrive. All mistakes are reported together when a process starts, and no value is repeated in the report.
This page is made of `qflare_site/environment.py` and `.env.example`.
"""


@dataclass(frozen=True)
class Variable:
    """One setting; its section and sentence are those of `.env.example`."""

    name: str
    section: str
    sentence: str


def settings_page(defaults: dict[str, Any]) -> str:
    """Return the page. Raises `KeyError` for a variable that `.env.example` does not have, or has alone."""
    variables = described_variables((ROOT / ".env.example").read_text(encoding="utf-8"))
    strangers = {variable.name for variable in variables} ^ set(defaults)
    if strangers:
        raise KeyError(f"in one of .env.example and DEFAULTS alone: {', '.join(sorted(strangers))}")
    lines, section = [_HEADING], ""
    for variable in variables:
        if variable.section != section:
            section = variable.section
            lines += ["", f"## {section}", "", "| variable | is | default | what it says |", "|---|---|---|---|"]
        lines.append(_row(variable, defaults[variable.name]))
    return "\n".join(lines) + "\n"


def described_variables(text: str) -> list[Variable]:
    """Return the variables of `.env.example` in its order."""
    variables: list[Variable] = []
    section = ""
    for line in text.splitlines():
        if found := _SECTION.match(line):
            section = found[1].partition(":")[0].partition(",")[0]
        elif found := _VARIABLE.match(line):
            variables.append(Variable(found[1], section, found[3] or ""))
        elif variables and (found := _CONTINUED.match(line)):
            last = variables[-1]
            variables[-1] = Variable(last.name, last.section, f"{last.sentence} {found[1]}".strip())
    return variables


def _row(variable: Variable, default: Any) -> str:
    shown = ",".join(map(str, default)) if isinstance(default, list) else str(default)
    if isinstance(default, bool):
        shown = shown.lower()
    shown = f"`{shown}`" if shown else "none"
    sentence = variable.sentence.replace("|", "\\|").replace("<", "&lt;")
    return f"| `{variable.name}` | {_KINDS[type(default)]} | {shown} | {sentence} |"
