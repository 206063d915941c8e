"""How the tests read the documents: tables, code blocks, shell commands."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def documents() -> list[Path]:
    """Return every document of the project."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def section(heading: str, text: str = PROTOCOL) -> str:
    """Return what stands below a heading, up to the next one of its level or above."""
    begin = re.search(rf"^(#+) {re.escape(heading)}.*\n", text, re.MULTILINE)
    assert begin, f"there is no heading {heading!r}"
    following = re.compile(rf"^#{{1,{len(begin[1])}}} ", re.MULTILINE).search(text, begin.end())
    return text[begin.end() : following.start() if following else None]


def rows(text: str) -> list[list[str]]:
    """Return the cells of the first table of a text, without its heading."""
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|---"))
    table = []
    for line in lines[first + 1 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def quoted(cell: str) -> list[str]:
    """Return what stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def members(text: str) -> set[str]:
    """Return the names in the first column of the first table of a text."""
    return {name for row in rows(text) for name in quoted(row[0])}


def shell_commands(text: str) -> Iterator[str]:
    """Yield the commands of indented blocks, continued lines joined and remarks removed."""
    joined = re.sub(r"\\\n\s*", "", text)
    for line in re.findall(r"^    (\S.*)$", joined, re.MULTILINE):
        yield re.split(r"\s{2,}#", line)[0].strip()
