"""Anybody can watch the log over HTTP and check it with nothing but the log's key."""

import base64
from collections.abc import Callable

import pytest
from django.test import Client

from audit import services
from audit.models import Entry
from keyring.services import server_verifier
from qflare_protocol import log_tiles, merkle
from qflare_protocol.audit_entry import GENESIS_HASH, AuditEntry, entry_hash
from qflare_protocol.checkpoint import verify_checkpoint
from qflare_protocol.merkle import verify_consistency, verify_inclusion
from tests.audit.conftest import NOW, record

MakeLog = Callable[[int], None]
pytestmark = pytest.mark.django_db


@pytest.fixture
def browser(client: Client, settings: object) -> Client:
    settings.QFLARE_RATES = settings.QFLARE_RATES | {"log": "100000/m"}
    return client


def from_base64(values: list[str]) -> list[bytes]:
    return [base64.b64decode(value) for value in values]


def code_of(answer: object) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].removeprefix("urn:qflare:problem:")


def test_the_checkpoint_is_the_signed_note_for_a_short_time(make_log: MakeLog, browser: Client) -> None:
    make_log(3)
    answer = browser.get("/log/checkpoint", headers={"accept": "text/plain"})
    assert (answer.status_code, answer["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert answer["Cache-Control"] == "public, max-age=2"
    signed = verify_checkpoint(answer.content.decode(), server_verifier("log"), services.log_origin())
    assert signed.checkpoint.size == 3


def test_an_empty_log_has_no_checkpoint(browser: Client) -> None:
    assert code_of(browser.get("/log/checkpoint")) == (404, "not-found")
    assert code_of(browser.get("/log/proof/inclusion?index=0")) == (404, "not-found")


def test_the_whole_log_can_be_fetched_and_recomputed(make_log: MakeLog, browser: Client) -> None:
    make_log(600)
    leaves, previous = [], GENESIS_HASH
    for index, width in log_tiles.tiles(600, 0):
        bundle = browser.get(f"/log/{log_tiles.tile_path('entries', index, width)}")
        assert bundle["Cache-Control"] == "public, max-age=31536000, immutable"
        for data in log_tiles.split_bundle(bundle.content, width):
            assert AuditEntry.from_bytes(data).previous_hash == previous
            previous = entry_hash(data)
            leaves.append(merkle.leaf_hash(data))
        tile = browser.get(f"/log/{log_tiles.tile_path(0, index, width)}").content
        assert tile == b"".join(leaves[index * 256 :])
    assert merkle.root_from_leaves(leaves) == services.root_at(600)
    upper = browser.get("/log/tile/1/000.p/2").content
    assert upper == b"".join(merkle.root_from_leaves(leaves[at : at + 256]) for at in (0, 256))


def test_partial_tiles_of_every_covered_width_are_there(make_log: MakeLog, browser: Client) -> None:
    make_log(300)
    for place, length in (("001.p/44", 44), ("001.p/1", 1), ("000.p/17", 17), ("000", 256)):
        assert len(browser.get(f"/log/tile/0/{place}").content) == 32 * length
        bundle = browser.get(f"/log/tile/entries/{place}").content
        assert len(log_tiles.split_bundle(bundle, length)) == length


@pytest.mark.parametrize(
    "place",
    [
        "0/001", "0/001.p/45", "0/001.p/0", "0/000.p/256", "0/000.p/044", "0/0", "0/x000/000", "0/x001/000", "0/-01",
        "8/000", "1/001", "1/000.p/2", "entries/001", "entries/001.p/45", "entries/00a", "data/000", "00/000",
        "0/000/", "0/000.p/", "0/" + "x999/" * 8 + "000", "disclosures/000",
    ],
)  # fmt: skip
def test_what_is_no_tile_of_the_signed_log_is_not_found(make_log: MakeLog, browser: Client, place: str) -> None:
    make_log(300)
    assert code_of(browser.get(f"/log/tile/{place}")) == (404, "not-found")


def test_what_entries_disclose_is_not_public(make_log: MakeLog, browser: Client) -> None:
    make_log(300)
    for address in ("/log/disclosures/000", "/log/tile/disclosures/000", "/log/export.json"):
        assert browser.get(address).status_code == 404
    disclosed = Entry.objects.get(index=7).event.disclosure_bytes()
    assert disclosed not in browser.get("/log/tile/entries/000").content


@pytest.mark.parametrize(("index", "size"), [(0, 1), (0, 300), (255, 256), (256, 300), (299, 300), (41, 258)])
def test_an_entry_is_proved_to_be_in_the_log(make_log: MakeLog, browser: Client, index: int, size: int) -> None:
    make_log(300)
    answer = browser.get(f"/log/proof/inclusion?index={index}&size={size}")
    assert answer["Cache-Control"] == "public, max-age=31536000, immutable"
    said = answer.json()
    leaf, root = from_base64([said["leaf_hash"], said["root"]])
    assert leaf == bytes(Entry.objects.get(index=index).leaf_hash)
    verify_inclusion(leaf, said["index"], said["size"], from_base64(said["proof"]), root)
    assert root == services.root_at(size)


@pytest.mark.parametrize(("old", "new"), [(1, 1), (1, 300), (256, 300), (299, 300), (41, 258)])
def test_the_log_is_proved_to_continue_an_earlier_one(make_log: MakeLog, browser: Client, old: int, new: int) -> None:
    make_log(300)
    said = browser.get(f"/log/proof/consistency?from={old}&to={new}").json()
    roots = from_base64([said["from_root"], said["to_root"]])
    verify_consistency(said["from"], roots[0], said["to"], roots[1], from_base64(said["proof"]))
    assert roots == [services.root_at(old), services.root_at(new)]


def test_a_size_left_out_is_the_current_one(make_log: MakeLog, browser: Client) -> None:
    make_log(5)
    record(6)
    services.sequence_log(NOW)
    answer = browser.get("/log/proof/inclusion?index=2")
    assert (answer.json()["size"], answer["Cache-Control"]) == (6, "public, max-age=2")
    assert browser.get("/log/proof/consistency?from=2").json()["to"] == 6


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("inclusion", (400, "malformed-message")),
        ("inclusion?index=x", (400, "malformed-message")),
        ("inclusion?index=-1", (400, "malformed-message")),
        ("inclusion?index=01", (400, "malformed-message")),
        ("inclusion?index=%D9%A3", (400, "malformed-message")),
        ("inclusion?index=5&size=5", (400, "malformed-message")),
        ("inclusion?index=0&size=0", (400, "malformed-message")),
        ("inclusion?index=0&size=11", (404, "not-found")),
        ("inclusion?index=0&size=" + "9" * 30, (400, "malformed-message")),
        ("consistency", (400, "malformed-message")),
        ("consistency?from=0", (400, "malformed-message")),
        ("consistency?from=6&to=5", (400, "malformed-message")),
        ("consistency?from=6&to=11", (404, "not-found")),
        ("other?from=6", (404, "not-found")),
    ],
)
def test_questions_that_have_no_answer_are_refused(
    make_log: MakeLog, browser: Client, address: str, expected: tuple[int, str]
) -> None:
    make_log(10)
    assert code_of(browser.get(f"/log/proof/{address}")) == expected


def test_the_log_is_limited_by_address(make_log: MakeLog, client: Client, settings: object) -> None:
    make_log(1)
    settings.QFLARE_RATES = settings.QFLARE_RATES | {"log": "2/m"}
    codes = [client.get("/log/checkpoint", REMOTE_ADDR="192.0.2.77").status_code for _ in range(3)]
    assert codes == [200, 200, 429]
