"""What a vector file holds and how it is written: cases with their values and steps, and what must be refused."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.vectors.steps import perform

NOTICE = "For tests only: every private key and secret in this file is public. Use none of them for anything else."

Receiver = Callable[[dict[str, Any]], None]
"""Runs the code of one side on the values of a case: raises `Refusal`, or asserts that it gives what is stored."""


@dataclass
class Case:
    """One worked example: named values (bytes, number, text, list of bytes) and the steps between them."""

    name: str
    values: dict[str, Any]
    steps: list[dict[str, Any]] = field(default_factory=list)
    left_out: set[str] = field(default_factory=set)

    def step(self, function: str, gives: str | None = None, *, stored: bool = True, **options: Any) -> None:
        """Add a step, performed at once; `gives` names the value it computes.

        A long value that is only a part or a joining of others need not be `stored` in the file.
        """
        step = {"function": function, **options} | ({"gives": gives} if gives else {})
        result = perform(step, self.values)
        if gives:
            self.values[gives] = result
            self.left_out |= set() if stored else {gives}
        self.steps.append(step)

    def stored_values(self) -> dict[str, Any]:
        """Return the values that stand in the file."""
        return {name: value for name, value in self.values.items() if name not in self.left_out}

    def take_steps(self) -> None:
        """Perform the steps in their order and add the values that were left out.

        Raises `AssertionError` where a step gives another value than the one stored, `Refusal` for a signature.
        """
        for step in self.steps:
            result = perform(step, self.values)
            if "gives" in step:
                assert self.values.setdefault(step["gives"], result) == result, f"{self.name}: {step['gives']}"

    def fingerprint(self, key: str, *, algorithm: str = "signature_algorithm") -> None:
        """Add the step that computes the fingerprint of a public key."""
        name = key.removesuffix("_public") + "_fingerprint"
        self.step("digest", name, label="key fingerprint", inputs=[algorithm, key], length=32)


@dataclass
class Refused:
    """Changed values of a case (or, where `of` is None, all of them) that a receiver refuses with a code."""

    name: str
    receiver: str
    code: str
    replaces: dict[str, Any]
    of: str | None = None


@dataclass
class VectorFile:
    """One file: what it is for, the section of docs/protocol.md it belongs to, its cases and refusals."""

    purpose: str
    section: str
    cases: list[Case]
    refusals: list[Refused] = field(default_factory=list)

    def values_of(self, refused: Refused) -> dict[str, Any]:
        """Return the values that the receiver of a refusal is given."""
        base = next((case.values for case in self.cases if case.name == refused.of), {})
        return base | refused.replaces

    def write(self, path: Path) -> None:
        """Write the file as JSON."""
        content = {
            "notice": NOTICE,
            "purpose": self.purpose,
            "section": self.section,
            "cases": [
                {"name": case.name, **_to_json(case.stored_values()), "steps": case.steps} for case in self.cases
            ],
            "refusals": [
                {
                    "name": refused.name,
                    "receiver": refused.receiver,
                    "code": refused.code,
                    "of": refused.of,
                    "replaces": _to_json(refused.replaces),
                }
                for refused in self.refusals
            ],
        }
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "VectorFile":
        """Read what `write` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        cases = [Case(case["name"], _from_json(case), case["steps"]) for case in content["cases"]]
        refusals = [
            Refused(row["name"], row["receiver"], row["code"], _from_json(row["replaces"]), row["of"])
            for row in content["refusals"]
        ]
        return cls(content["purpose"], content["section"], cases, refusals)


def _to_json(values: dict[str, Any]) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {"texts": {}, "numbers": {}, "bytes": {}, "lists": {}}
    for name, value in values.items():
        if isinstance(value, bytes):
            rows["bytes"][name] = value.hex()
        elif isinstance(value, list):
            rows["lists"][name] = [item.hex() for item in value]
        else:
            rows["texts" if isinstance(value, str) else "numbers"][name] = value
    return {kind: row for kind, row in rows.items() if row}


def _from_json(row: dict[str, Any]) -> dict[str, Any]:
    values = {**row.get("texts", {}), **row.get("numbers", {})}
    values |= {name: bytes.fromhex(text) for name, text in row.get("bytes", {}).items()}
    return values | {name: [bytes.fromhex(text) for text in texts] for name, texts in row.get("lists", {}).items()}
