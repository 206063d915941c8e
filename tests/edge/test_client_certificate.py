"""Mutual TLS: a device shows its certificate to a proxy that demands one, and says what is wrong with its files."""

import argparse
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from edge_client.client_certificate import ClientCertificate, client_certificate
from edge_client.http import Http, ServerUnreachable
from qflare_protocol.errors import Refusal


def make_certificate(folder, name):
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2"
    names = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run([*command.split(), *names], check=True, capture_output=True, timeout=60)
    key.chmod(0o600)
    return ClientCertificate(certificate, key)


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802 - named by the base class
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    return {name: make_certificate(folder, name) for name in ("server", "device", "stranger")}


@pytest.fixture
def server(certificates, monkeypatch):
    """A server that speaks to whoever shows the device's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates["server"].load_into(context)
    context.load_verify_locations(certificates["device"].certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    listener = HTTPServer(("127.0.0.1", 0), _Answers)
    listener.socket = context.wrap_socket(listener.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["server"].certificate))
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{listener.server_port}"
    listener.shutdown()
    listener.server_close()


def test_the_certificate_is_shown_to_who_demands_it(server, certificates):
    http = Http(server, certificate=certificates["device"])
    assert http.send("GET", "/").status_code == 204
    http.close()


@pytest.mark.parametrize("shown", [None, "stranger"])
def test_without_the_right_certificate_the_server_is_out_of_reach(server, certificates, shown):
    http = Http(server, certificate=certificates.get(shown))
    with pytest.raises(ServerUnreachable):
        http.send("GET", "/")
    http.close()


def options(**given):
    return argparse.Namespace(**{"tls_certificate": None, "tls_private_key": None, **given})


def test_no_file_is_no_certificate():
    assert client_certificate(options(), {}) is None


def test_flags_come_before_the_environment(certificates):
    device, other = certificates["device"], certificates["stranger"]
    named = options(tls_certificate=str(device.certificate), tls_private_key=str(device.private_key))
    environment = {"QFLARE_EDGE_TLS_CERTIFICATE": str(other.certificate), "QFLARE_EDGE_TLS_PRIVATE_KEY": "x"}
    assert client_certificate(named, environment) == device


def test_one_file_without_the_other_is_refused():
    with pytest.raises(Refusal, match="name both") as refused:
        client_certificate(options(tls_certificate="device.crt"), {})
    assert refused.value.code == "malformed-message"


def test_a_key_that_others_can_read_is_refused(certificates, tmp_path):
    key = tmp_path / "open.key"
    key.write_bytes(certificates["device"].private_key.read_bytes())
    key.chmod(0o644)
    with pytest.raises(Refusal, match="chmod 600"):
        client_certificate(options(tls_certificate="device.crt", tls_private_key=str(key)), {})


@pytest.mark.parametrize("key", ["another's", "absent"])
def test_files_that_do_not_fit_are_refused_and_nothing_of_a_key_is_said(certificates, tmp_path, key):
    path = certificates["stranger"].private_key if key == "another's" else tmp_path / "absent.key"
    with pytest.raises(Refusal, match="no certificate with its key") as refused:
        Http("https://127.0.0.1:1", certificate=ClientCertificate(certificates["device"].certificate, path))
    assert refused.value.code == "invalid-key"
    assert "BEGIN" not in refused.value.detail
