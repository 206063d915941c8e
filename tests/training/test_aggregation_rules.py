"""`manage.py aggregation_rules` says what a policy can name, and whether one holds."""

import json
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from training.management.commands.aggregation_rules import KINDS


def answer(*arguments: str) -> str:
    out = StringIO()
    call_command("aggregation_rules", *arguments, stdout=out)
    return out.getvalue()


def policy_file(folder: Path, content: object) -> str:
    file = folder / "policy.json"
    file.write_text(json.dumps(content))
    return str(file)


def test_every_part_is_listed_with_its_parameters_and_paper() -> None:
    listed = {(row["kind"], row["name"]): row for row in json.loads(answer("--json"))}
    assert set(listed) == {(kind, name) for kind, parts in KINDS.items() for name in parts}
    assert listed["rule", "geometric-median"]["parameters"] == {"iterations": 32, "smoothing": 1e-06}
    assert "Weiszfeld" in answer()


def test_a_policy_that_holds_says_how_many_attackers_it_stands(tmp_path: Path) -> None:
    file = policy_file(tmp_path, {"rule": {"name": "bulyan", "parameters": {}}, "tolerated_fraction": 0.1})
    rows = json.loads(answer("--json", "--check", file))
    assert {"updates": 20, "tolerated": 2, "stood": 4} in rows
    assert "of  20 updates    2    4" in answer("--check", file)


@pytest.mark.parametrize(
    "content, because",
    [
        ({"rule": {"name": "mean", "parameters": {}}, "pre_aggregation": []}, "its parts stand 0"),
        ({"rule": {"name": "moat", "parameters": {}}}, "There is no rule 'moat'"),
        ({"moat": 1}, "exactly these members"),
        ([1], "no JSON object"),
    ],
    ids=["claims too much", "unknown rule", "unknown member", "a list"],
)
def test_a_policy_that_does_not_hold_is_refused_with_the_reason(tmp_path: Path, content: object, because: str) -> None:
    with pytest.raises(CommandError) as caught:
        answer("--check", policy_file(tmp_path, content))
    assert because in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as caught:
        answer("--check", str(tmp_path / "absent.json"))
    assert "absent.json" in str(caught.value)
