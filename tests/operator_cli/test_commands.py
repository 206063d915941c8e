"""`qflare` against the real operator API: what people see, what scripts read, and what is refused."""

import json
from datetime import timedelta

import httpx
import pytest
from django.utils import timezone

from audit.services import sequence_log
from devices.models import Device, DeviceState
from operator_api.scopes import READING, Scope
from operator_api.services import create_key
from operator_cli import server
from operator_cli.main import main
from tests.factories import populate
from tests.site_transport import SiteTransport
from training.models import UNFINISHED, Federation, FederationState, ModelVersion, Round

pytestmark = pytest.mark.django_db


@pytest.fixture
def site(db):
    """A site with a row in every table that operators see."""
    return populate()


@pytest.fixture
def in_process(monkeypatch):
    """Let the command line call the site in this process, without a socket."""
    client = httpx.Client
    monkeypatch.setattr(server.httpx, "Client", lambda **options: client(**options | {"transport": SiteTransport()}))


@pytest.fixture
def qflare(in_process, db, monkeypatch, capsys):
    """Run a command under a key of these scopes, all unless named; return status, output and errors."""

    def run(*arguments, scopes=tuple(Scope.values)):
        name = f"key-{len(scopes)}-{timezone.now().timestamp():.6f}".replace(".", "-")
        key = create_key(name, scopes=scopes, lifetime=timedelta(hours=1), actor="operator:olga", now=timezone.now())
        monkeypatch.setenv("QFLARE_API_KEY", key.text)
        status = main(["--server", "http://127.0.0.1", *arguments])
        said = capsys.readouterr()
        assert key.text not in said.out + said.err
        return status, said.out, said.err

    return run


@pytest.mark.parametrize(
    "noun", [("tokens", "list"), ("devices", "list"), ("federations", "list"), ("rounds", "list"), ("models", "list"),
             ("log", "entries")],
)  # fmt: skip
def test_a_list_is_a_table_for_people_and_whole_rows_for_scripts(site, qflare, noun):
    sequence_log()
    status, table, _ = qflare(*noun)
    assert status == 0
    rows = json.loads(qflare("--json", *noun)[1])
    assert len(table.splitlines()) == len(rows) + 1 >= 2
    assert len(json.loads(qflare("--json", *noun, "--limit", "1")[1])) == 1


def test_a_list_of_nothing_says_so(qflare):
    assert qflare("devices", "list") == (0, "nothing\n", "")
    assert json.loads(qflare("--json", "devices", "list")[1]) == []


def test_a_list_goes_on_over_its_pages(site, qflare, monkeypatch):
    monkeypatch.setattr("operator_api.listing.Pages.max_page_size", 1)
    names = [row["name"] for row in json.loads(qflare("--json", "devices", "list")[1])]
    assert names == sorted(Device.objects.values_list("name", flat=True))
    assert len(names) > 2


def test_a_device_is_named_by_name_or_by_id(site, qflare):
    device = Device.objects.first()
    by_name, by_id = (
        qflare("--json", "devices", "show", device.name),
        qflare("--json", "devices", "show", str(device.id)),
    )
    assert by_name == by_id
    assert json.loads(by_name[1])["name"] == device.name
    status, _, error = qflare("devices", "show", "nobody")
    assert (status, error) == (2, "Refused: There is no device with name nobody.\n")


def test_a_device_is_suspended_and_resumed_with_a_reason(site, qflare):
    device = Device.objects.filter(state=DeviceState.ACTIVE).first()
    assert qflare("devices", "suspend", device.name, "--reason", "moved")[0] == 0
    assert Device.objects.get(id=device.id).state_reason == "moved"
    assert "active" in qflare("devices", "resume", device.name, "--reason", "arrived")[1]
    with pytest.raises(SystemExit):
        qflare("devices", "suspend", device.name)


def test_labels_have_names_and_values(site, qflare):
    device = Device.objects.first()
    assert qflare("devices", "label", device.name, "country=fi", "ward=3")[0] == 0
    assert Device.objects.get(id=device.id).labels == {"country": "fi", "ward": "3"}
    assert qflare("devices", "label", device.name, "country")[0] == 2


def test_tokens_are_issued_with_the_command_for_each_device(qflare):
    status, table, _ = qflare("tokens", "issue", "--name", "press", "--count", "2")
    assert status == 0
    assert table.count("QF1") >= 2
    issued = json.loads(qflare("--json", "tokens", "issue")[1])
    assert json.loads(qflare("--json", "tokens", "revoke", issued[0]["id"])[1])["state"] == "revoked"


def test_a_federation_is_paused_and_resumed(site, qflare):
    name = Federation.objects.filter(state=FederationState.ACTIVE).first().name
    assert "paused" in qflare("federations", "pause", name)[1]
    assert qflare("federations", "pause", name)[0] == 2
    assert "active" in qflare("federations", "resume", name)[1]
    assert json.loads(qflare("--json", "federations", "show", name)[1])["policy"]


def test_a_round_is_opened_and_waited_for_until_it_ends(site, qflare, monkeypatch):
    for running in Round.objects.filter(state__in=UNFINISHED):
        assert qflare("rounds", "cancel", str(running.id), "--reason", "room")[0] == 0
    name = Federation.objects.filter(state=FederationState.ACTIVE).first().name

    def cancelled_meanwhile(_seconds):
        for running in Round.objects.filter(state__in=UNFINISHED):
            qflare("rounds", "cancel", str(running.id), "--reason", "enough")

    monkeypatch.setattr("operator_cli.commands.time.sleep", cancelled_meanwhile)
    status, shown, said = qflare("rounds", "open", name, "--wait")
    assert status == 1
    assert "cancelled" in shown
    round_id = str(Round.objects.order_by("-created_at").first().id)
    assert "invited" in qflare("rounds", "participations", round_id)[1]
    assert round_id in qflare("rounds", "list", "--federation", name)[1]
    assert qflare("rounds", "extend", round_id, "--seconds", "5", "--reason", "slow")[0] == 2
    assert qflare("rounds", "show", round_id)[0] == 0


def test_a_version_is_released_and_gone_back_from(site, qflare):
    newest = ModelVersion.objects.order_by("-number").first()
    ModelVersion.objects.update(released_at=None)
    name = newest.federation.name
    assert qflare("models", "release", name, str(newest.number))[0] == 0
    back = json.loads(qflare("--json", "models", "roll-back", name, "0", "--reason", "worse")[1])
    assert back["number"] == 0
    assert name in qflare("models", "list", "--federation", name)[1]
    assert qflare("models", "release", name, "999")[0] == 2


def test_the_proof_of_an_entry_is_written_to_a_file(site, qflare, tmp_path):
    sequence_log()
    output = tmp_path / "proof"
    assert qflare("log", "prove", "0", "--output", str(output))[0] == 0
    assert output.read_text().startswith("c2sp.org/tlog-proof")


def test_a_key_that_lacks_a_scope_is_told_so(site, qflare):
    device = Device.objects.filter(state=DeviceState.ACTIVE).first()
    status, _, error = qflare("devices", "suspend", device.name, "--reason", "x", scopes=READING)
    assert status == 2
    assert "lacks the scope devices:write" in error


def test_what_the_server_finds_wrong_with_a_parameter_is_shown(qflare):
    status, _, error = qflare("rounds", "list", "--state", "happy")
    assert status == 2
    assert "state:" in error


def test_without_a_key_nothing_is_asked(monkeypatch, capsys):
    monkeypatch.delenv("QFLARE_API_KEY", raising=False)
    monkeypatch.setenv("QFLARE_API_KEY_FILE", "/nowhere/key")
    assert main(["devices", "list"]) == 2
    monkeypatch.delenv("QFLARE_API_KEY_FILE")
    assert main(["devices", "list"]) == 2
    assert "create_api_key" in capsys.readouterr().err


def test_a_key_in_a_file_is_taken_without_its_line_end(tmp_path):
    (tmp_path / "key").write_text("qfk_x\n")
    assert server.api_key({"QFLARE_API_KEY_FILE": str(tmp_path / "key")}) == "qfk_x"


def answering(monkeypatch, status, content, content_type):
    client = httpx.Client

    def answer(_request):
        return httpx.Response(status, content=content, headers={"Content-Type": content_type})

    monkeypatch.setattr(server.httpx, "Client", lambda **o: client(**o | {"transport": httpx.MockTransport(answer)}))
    monkeypatch.setenv("QFLARE_API_KEY", "qfk_x")


@pytest.mark.parametrize(
    ("status", "content", "content_type"),
    [(200, b"<html>", "text/html"), (502, b"bad gateway", "text/plain"), (500, b"[]", "application/json")],
)
def test_another_server_at_the_address_is_told_apart(monkeypatch, capsys, status, content, content_type):
    answering(monkeypatch, status, content, content_type)
    assert main(["devices", "list"]) == 3
    assert "is this the address of a QFLARE?" in capsys.readouterr().err


def test_a_server_that_is_away_is_no_traceback(monkeypatch, capsys):
    monkeypatch.setenv("QFLARE_API_KEY", "qfk_x")
    assert main(["--server", "http://127.0.0.1:1", "devices", "list"]) == 3
    assert "cannot be reached" in capsys.readouterr().err
