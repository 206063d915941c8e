"""The reference of the HTTP API: every operation of `docs/openapi.yaml` in a table for each of its tags."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("get", "post", "put", "patch", "delete")
_HEADING = """# HTTP API

Every endpoint of `docs/openapi.yaml`, which the site serves itself at `/api/schema`; `/docs/api` of a running site
shows what each takes and gives, down to the members. Refusals are RFC 9457 problem details whose types stand in
[the protocol](../protocol.md#appendix-a-errors).
"""


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    tag: str
    sentence: str


def api_page() -> str:
    """Return the page."""
    description = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text(encoding="utf-8"))
    found = list(operations(description))
    about = {tag["name"]: tag.get("description", "") for tag in description.get("tags", [])}
    lines = [_HEADING]
    for tag in sorted({operation.tag for operation in found}, key=lambda name: (name not in about, name)):
        rows = [f"| {one.method} | `{one.path}` | {one.sentence} |" for one in found if one.tag == tag]
        lines += ["", f"## {tag.capitalize()}", "", about.get(tag, ""), "", "| | path | |", "|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def operations(description: dict[str, Any]) -> Iterator[Operation]:
    """Yield every operation of an OpenAPI description in its order."""
    for path, members in description["paths"].items():
        for method in METHODS:
            if method in members:
                text = members[method].get("summary") or members[method].get("description", "")
                sentence = " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")
                yield Operation(method.upper(), path, members[method].get("tags", ["other"])[0], sentence)
