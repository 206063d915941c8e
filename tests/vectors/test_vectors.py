"""The vector files hold: every value recomputes, both sides accept what is good and refuse what is not."""

import json
import re
from functools import cache

import pytest

from qflare_protocol.errors import CATALOGUE, Refusal
from tests.docs.reading import PROTOCOL, quoted, rows, section
from tests.vectors.conftest import STORED
from tests.vectors.make import FIXED, MAKERS, RECEIVERS, main
from tests.vectors.steps import FUNCTIONS
from tests.vectors.vector_file import NOTICE, VectorFile

FILES = sorted(MAKERS)
README = (STORED / "README.md").read_text(encoding="utf-8")
MAXIMUM_FILE_BYTES, MAXIMUM_FOLDER_BYTES = 300_000, 1_600_000


@cache
def opened(folder, name):
    """Read a file and perform the steps of its cases."""
    file = VectorFile.read(folder / f"{name}.json")
    for case in file.cases:
        case.take_steps()
    return file


@pytest.mark.parametrize("name", FILES)
def test_every_value_of_a_file_recomputes_and_every_signature_holds(folder, name):
    assert opened(folder, name).cases


@pytest.mark.parametrize("name", FILES)
def test_both_sides_accept_the_cases_and_arrive_at_the_stored_values(folder, name):
    file = opened(folder, name)
    for case in file.cases:
        for receive in RECEIVERS[name].values():
            receive(case.values)


@pytest.mark.parametrize("name", FILES)
def test_what_is_to_be_refused_is_refused_with_its_code(folder, name):
    file = opened(folder, name)
    for refused in file.refusals:
        with pytest.raises(Refusal) as caught:
            RECEIVERS[name][refused.receiver](file.values_of(refused))
        assert caught.value.code == refused.code, refused.name


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_what_it_is_and_that_its_keys_are_public(folder, name):
    content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    assert list(content) == ["notice", "purpose", "section", "cases", "refusals"]
    assert content["notice"] == NOTICE
    assert section(content["section"])
    names = [row["name"] for row in content["cases"]]
    assert len(set(names)) == len(names)
    for row in content["refusals"]:
        assert row["code"] in CATALOGUE
        assert row["of"] is None or row["of"] in names


@pytest.mark.parametrize("name", FILES)
def test_bytes_are_lower_case_hexadecimal(folder, name):
    content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    for row in content["cases"] + [refused["replaces"] for refused in content["refusals"]]:
        texts = [*row.get("bytes", {}).values(), *(text for texts in row.get("lists", {}).values() for text in texts)]
        assert all(re.fullmatch(r"([0-9a-f]{2})*", text) for text in texts)


def test_the_files_are_exactly_those_the_command_makes_and_stay_small(folder):
    sizes = {file.stem: file.stat().st_size for file in folder.glob("*.json")}
    assert sorted(sizes) == FILES
    assert max(sizes.values()) < MAXIMUM_FILE_BYTES
    assert sum(sizes.values()) < MAXIMUM_FOLDER_BYTES


@pytest.mark.parametrize("name", FIXED)
def test_a_file_without_randomness_is_made_again_byte_for_byte(made_anew, name):
    assert (made_anew / f"{name}.json").read_bytes() == (STORED / f"{name}.json").read_bytes()


def test_no_private_key_of_one_making_is_in_another(made_anew):
    name = "handshake.json"
    one, two = (VectorFile.read(folder / name).cases[0].values for folder in (STORED, made_anew))
    private = [key for key in one if key.endswith("_private")]
    assert len(private) == 5
    assert all(one[key] != two[key] for key in private)


def labels():
    """Return every label that a step of a stored file uses."""
    files = [json.loads((STORED / f"{name}.json").read_text(encoding="utf-8")) for name in FILES]
    steps = [step for file in files for case in file["cases"] for step in case["steps"]]
    return {step["label"] for step in steps if "label" in step}


def test_every_label_that_travels_occurs_in_a_step_of_some_file():
    listed = rows(section("Appendix B"))
    on_the_wire = {quoted(row[0])[0] for row in listed if "*" not in row[2]}
    assert on_the_wire <= labels()
    assert labels() <= {quoted(row[0])[0] for row in listed} | {"example"}


def test_each_step_function_is_used_and_explained():
    files = [VectorFile.read(STORED / f"{name}.json") for name in FILES]
    used = {step["function"] for file in files for case in file.cases for step in case.steps}
    assert used == set(FUNCTIONS)
    assert used == {quoted(row[0])[0] for row in rows(section("Steps", README))}


def test_each_file_and_receiver_stands_in_the_readme():
    table = {quoted(row[0])[0]: row[1:] for row in rows(section("Files", README))}
    assert sorted(table) == [f"{name}.json" for name in FILES]
    for name in FILES:
        assert table[f"{name}.json"][0] == VectorFile.read(STORED / f"{name}.json").section.split()[0]
        assert set(quoted(table[f"{name}.json"][2])) == set(RECEIVERS[name])


def test_the_protocol_names_the_folder():
    assert "(vectors/README.md)" in section("Appendix C", PROTOCOL)


def test_a_changed_value_does_not_pass(tmp_path):
    """The checks above can fail: one bit of a derived key, of a signature and of a refused message."""
    file = VectorFile.read(STORED / "rekey.json")
    chain_key = file.cases[0].values["chain_key"]
    file.cases[0].values["chain_key"] = bytes([chain_key[0] ^ 1]) + chain_key[1:]
    with pytest.raises(AssertionError, match="chain_key"):
        file.cases[0].take_steps()
    file.cases[1].values["offer"] = file.cases[1].values["offer"][:-1] + b"\x00"
    with pytest.raises(Refusal) as caught:
        file.cases[1].take_steps()
    assert caught.value.code == "invalid-signature"


def test_the_command_makes_single_files_and_knows_their_names(tmp_path, capsys):
    assert main([str(tmp_path), "epochs"]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["epochs.json"]
    assert "epochs.json" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(tmp_path), "nothing"])
    assert "there is no file nothing" in capsys.readouterr().err
