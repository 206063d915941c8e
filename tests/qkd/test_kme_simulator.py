"""The simulator as a KME of the standard is seen from outside, and the command that runs it."""

import http.client
import json
import re
import ssl
import stat
import threading
import uuid
from datetime import UTC, datetime
from io import StringIO

import pytest
from cryptography import x509
from django.core.management import CommandError, call_command

from qflare_protocol.qkd import etsi014
from qflare_protocol.qkd.kme_client import kme_address
from qflare_site.demo.kme_certificates import KME_IDS, make_certificates
from qflare_site.demo.kme_simulator import KmeSimulator
from qflare_site.management.commands import kme_simulator as command
from tests.qkd.conftest import ALICE, BOB, SERVER, client_of


class RawSae:
    """An SAE that sends whatever it likes."""

    def __init__(self, files, sae_id, url):
        self._context = ssl.create_default_context(cafile=files.ca)
        self._context.load_cert_chain(files.certificate(sae_id), files.private_key(sae_id))
        self._address = kme_address(url)

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPSConnection(*self._address, context=self._context, timeout=5)
        try:
            connection.request(method, f"/api/v1/keys/{path}", body, headers or {})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


@pytest.fixture
def raw_server(files, simulator):
    return RawSae(files, SERVER, simulator.server_url)


@pytest.fixture
def raw_alice(files, simulator):
    return RawSae(files, ALICE, simulator.device_url)


def test_keys_can_be_asked_for_by_get_too(raw_server, raw_alice):
    status, drawn = raw_server.ask("GET", f"{ALICE}/enc_keys?number=1&size=128")
    (key,) = drawn["keys"]
    assert status == 200
    assert len(key["key"]) == 24
    assert raw_alice.ask("GET", f"{SERVER}/dec_keys?key_ID={key['key_ID']}") == (200, drawn)


def test_a_request_without_terms_gives_one_key_of_the_default_size(raw_server):
    for method in ("GET", "POST"):
        status, drawn = raw_server.ask(method, f"{ALICE}/enc_keys")
        assert status == 200
        assert len(etsi014.read_key_container(json.dumps(drawn).encode(), number=1, size_bits=256)) == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", f"{ALICE}/enc_keys", b"not json", 400),
        ("POST", f"{ALICE}/enc_keys", b'{"size":100}', 400),
        ("POST", f"{ALICE}/enc_keys", b'{"size":8}', 400),
        ("POST", f"{ALICE}/enc_keys", b'{"number":0}', 400),
        ("POST", f"{ALICE}/enc_keys", b'{"number":1.0}', 400),
        ("POST", f"{ALICE}/enc_keys", b'{"extension_mandatory":[{"x":1}]}', 400),
        ("GET", f"{ALICE}/enc_keys?number=many", None, 400),
        ("GET", f"{ALICE}/dec_keys", None, 400),
        ("POST", f"{ALICE}/dec_keys", b'{"key_IDs":[{"key_ID":"7"}]}', 400),
        ("POST", f"{ALICE}/status", b"{}", 405),
        ("GET", f"{ALICE}/keys", None, 404),
        ("GET", f"{ALICE}", None, 404),
        ("GET", "sae-nobody/status", None, 400),
    ],
)
def test_a_mistaken_request_gets_the_error_format_of_the_standard(raw_server, method, path, body, expected):
    status, error = raw_server.ask(method, path, body)
    assert status == expected
    assert etsi014.read_error(json.dumps(error).encode()).message
    assert all(len(detail) == 1 for detail in error.get("details", []))


def test_a_missing_key_is_named_in_the_error(raw_alice):
    key_id = str(uuid.uuid4())
    status, error = raw_alice.ask("GET", f"{SERVER}/dec_keys?key_ID={key_id}")
    assert (status, error["details"]) == (400, [{"key_ID": key_id}])


@pytest.mark.parametrize("length", ["-1", "many", str(etsi014.MAX_MESSAGE_BYTES + 1)])
def test_a_request_of_no_or_too_great_length_is_refused(raw_server, length):
    status, _ = raw_server.ask("POST", f"{ALICE}/enc_keys", headers={"Content-Length": length})
    assert status == 400


def test_a_connection_that_stalls_holds_up_nobody(files, simulator, server):
    import socket

    host, port = kme_address(simulator.server_url)
    with socket.create_connection((host, port)):
        assert len(server.enc_keys(ALICE)) == 1


def test_many_slaves_at_once_get_a_key_once(files, simulator, server):
    key_ids = [key.key_id for key in server.enc_keys(BOB, number=8)]
    bob, delivered = client_of(files, BOB, simulator.device_url), []

    def fetch(key_id):
        try:
            delivered.extend(bob.dec_keys(SERVER, [key_id]))
        except etsi014.QkdUnavailable:
            delivered.append(None)

    threads = [threading.Thread(target=fetch, args=(key_id,)) for key_id in key_ids * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys = [key for key in delivered if key]
    assert sorted(key.key_id for key in keys) == sorted(key_ids)
    assert delivered.count(None) == len(key_ids)


def test_private_keys_are_for_their_owner_alone(files):
    for name in (*KME_IDS, SERVER, ALICE):
        assert stat.S_IMODE(files.private_key(name).stat().st_mode) == 0o600
    assert not files.private_key("ca").exists()


def test_a_certificate_names_its_sae_and_can_be_made_anew(tmp_path):
    first = make_certificates(tmp_path, [ALICE], now=datetime.now(UTC)).certificate(ALICE).read_bytes()
    second = make_certificates(tmp_path, [ALICE], now=datetime.now(UTC)).certificate(ALICE).read_bytes()
    assert first != second
    (name,) = x509.load_pem_x509_certificate(second).subject
    assert name.value == ALICE


@pytest.mark.parametrize("sae_id", ["", "../ca", "a/b", "x" * 65, "two words"])
def test_an_sae_that_cannot_name_a_file_is_refused(tmp_path, sae_id):
    with pytest.raises(ValueError, match="cannot be an SAE"):
        make_certificates(tmp_path, [sae_id], now=datetime.now(UTC))


def test_a_simulator_whose_second_port_is_taken_gives_the_first_one_back(files):
    with KmeSimulator(files, server_saes=[SERVER], device_saes=[ALICE]) as running:
        taken = kme_address(running.server_url)[1]
        with pytest.raises(OSError, match="in use"):
            KmeSimulator(files, server_saes=[SERVER], device_saes=[ALICE], port=taken - 1)


def test_the_command_says_it_is_a_simulator_and_how_both_sides_reach_it(tmp_path, monkeypatch):
    out, seen = StringIO(), []

    def look_around(self):
        said = out.getvalue()
        seen.append(said)
        server_url, device_url = re.search(r"KME_URL=(\S+)", said)[1], re.search(r"--qkd-kme (\S+)", said)[1]
        files = command.SimulatorFiles(tmp_path)
        (key,) = client_of(files, "qflare-server", server_url).enc_keys("edge-1")
        assert client_of(files, "edge-1", device_url).dec_keys("qflare-server", [key.key_id]) == [key]

    monkeypatch.setattr(command.Command, "_wait", look_around)
    call_command("kme_simulator", "--directory", str(tmp_path), "--port", "0", "--device-sae", "edge-1", stdout=out)
    assert seen[0].startswith("KME SIMULATOR")
    assert str(tmp_path / "qflare-server.key") in seen[0]
    assert "has ended" in out.getvalue()


def test_the_command_refuses_what_it_cannot_serve(tmp_path):
    for arguments in (["--port", "70000"], ["--server-sae", "a/b"]):
        with pytest.raises(CommandError):
            call_command("kme_simulator", "--directory", str(tmp_path), *arguments)
