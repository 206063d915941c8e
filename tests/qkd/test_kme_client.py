"""The client against the simulator and against servers that misbehave, over real TLS."""

import json
import socket
import ssl
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization

from qflare_protocol.qkd import KmeClient, QkdUnavailable, etsi014
from qflare_protocol.qkd.kme_client import kme_address
from qflare_site.demo.kme_certificates import make_certificates
from tests.qkd.conftest import ALICE, BOB, LIMITS, MALLORY, SERVER, client_of
from tests.qkd.rogue_kme import http_answer, rogue_kme


def test_both_sides_get_the_same_fresh_key(server, alice):
    (mine,) = server.enc_keys(ALICE)
    (yours,) = alice.dec_keys(SERVER, [mine.key_id])
    assert mine == yours
    assert len(mine.key) == 32
    assert server.enc_keys(ALICE)[0].key != mine.key


def test_several_keys_of_a_stated_size_come_in_the_order_of_their_ids(server, alice):
    drawn = server.enc_keys(ALICE, number=3, size_bits=512)
    wanted = [drawn[2], drawn[0], drawn[1]]
    assert alice.dec_keys(SERVER, [key.key_id for key in wanted], size_bits=512) == wanted
    assert {len(key.key) for key in drawn} == {64}


def test_a_device_can_be_the_master_too(server, alice):
    (key,) = alice.enc_keys(SERVER)
    assert server.dec_keys(ALICE, [key.key_id]) == [key]


def test_the_status_names_both_ends_and_counts_the_keys(server):
    before = server.status(ALICE)
    server.enc_keys(ALICE, number=2)
    after = server.status(ALICE)
    assert (before.master_sae_id, before.slave_sae_id) == (SERVER, ALICE)
    assert before.source_kme_id != before.target_kme_id
    assert (before.stored_key_count, after.stored_key_count) == (LIMITS.max_key_count, LIMITS.max_key_count - 2)


def test_a_key_is_given_to_the_slave_once(server, alice):
    (key,) = server.enc_keys(ALICE)
    alice.dec_keys(SERVER, [key.key_id])
    with pytest.raises(QkdUnavailable, match="status 400.*not found"):
        alice.dec_keys(SERVER, [key.key_id])


def test_a_missing_key_costs_none_of_the_others(server, alice):
    drawn = server.enc_keys(ALICE, number=2)
    with pytest.raises(QkdUnavailable, match="not found"):
        alice.dec_keys(SERVER, [drawn[0].key_id, uuid.uuid4()])
    assert alice.dec_keys(SERVER, [key.key_id for key in drawn]) == drawn


def test_a_key_that_nobody_fetched_in_its_time_is_gone(server, alice, clock):
    (key,) = server.enc_keys(ALICE)
    clock.now += LIMITS.key_lifetime_seconds
    with pytest.raises(QkdUnavailable, match="not found"):
        alice.dec_keys(SERVER, [key.key_id])


def test_a_key_of_one_pair_is_not_given_to_another_slave(files, simulator, server):
    (key,) = server.enc_keys(ALICE)
    bob = client_of(files, BOB, simulator.device_url)
    with pytest.raises(QkdUnavailable, match="status 400.*not found"):
        bob.dec_keys(SERVER, [key.key_id])


def test_the_certificate_of_another_sae_is_refused(files, simulator):
    mallory = client_of(files, MALLORY, simulator.device_url)
    for ask in (mallory.status, mallory.enc_keys, lambda peer: mallory.dec_keys(peer, [uuid.uuid4()])):
        with pytest.raises(QkdUnavailable, match="status 401"):
            ask(SERVER)


def test_an_sae_of_the_other_end_is_refused(files, simulator):
    with pytest.raises(QkdUnavailable, match="status 401"):
        client_of(files, ALICE, simulator.server_url).status(SERVER)


def test_a_client_certificate_of_another_authority_does_not_get_in(files, simulator, tmp_path):
    others = make_certificates(tmp_path, [ALICE], now=datetime.now(UTC))
    with pytest.raises(QkdUnavailable, match=r"TLS|reached"):
        client_of(others, ALICE, simulator.device_url, ca=files.ca).status(SERVER)


def test_a_client_without_a_certificate_does_not_get_in(files, simulator):
    context = ssl.create_default_context(cafile=files.ca)
    host, port = kme_address(simulator.device_url)
    with pytest.raises(OSError), socket.create_connection((host, port)) as plain:  # noqa: PT012
        with context.wrap_socket(plain, server_hostname=host) as tls:
            tls.sendall(b"GET /api/v1/keys/x/status HTTP/1.1\r\nHost: kme\r\n\r\n")
            assert tls.recv(1) != b""


def test_a_kme_of_another_authority_is_not_believed(files, simulator, tmp_path):
    others = make_certificates(tmp_path, [], now=datetime.now(UTC))
    with pytest.raises(QkdUnavailable, match="certificate does not hold"):
        client_of(files, ALICE, simulator.device_url, ca=others.ca).status(SERVER)


def test_a_kme_whose_certificate_names_another_host_is_not_believed(files):
    # An SAE's certificate is of the same authority and names no host.
    with (
        rogue_kme(files, http_answer(b"{}"), name=BOB) as url,
        pytest.raises(QkdUnavailable, match="certificate does not hold"),
    ):
        client_of(files, ALICE, url).status(SERVER)


def test_an_expired_certificate_of_the_kme_is_not_believed(files, tmp_path):
    expired = make_certificates(tmp_path, [ALICE], now=datetime.now(UTC) - timedelta(days=30))
    with rogue_kme(expired, http_answer(b"{}")) as url, pytest.raises(QkdUnavailable, match="expired"):
        client_of(files, ALICE, url, ca=expired.ca).status(SERVER)


def test_the_limits_of_a_request_are_kept(server):
    for refused in ({"number": 17}, {"size_bits": 2048}):
        with pytest.raises(QkdUnavailable, match="status 400"):
            server.enc_keys(ALICE, **refused)


def test_the_keys_of_a_pair_run_out_and_those_of_another_do_not(server):
    server.enc_keys(ALICE, number=16)
    with pytest.raises(QkdUnavailable, match="status 503.*not enough keys"):
        server.enc_keys(ALICE, number=5)
    assert len(server.enc_keys(ALICE, number=4)) == 4
    assert len(server.enc_keys(BOB)) == 1


@pytest.mark.parametrize("request_", [{"number": 0}, {"number": 129}, {"size_bits": 255}, {"size_bits": 0}])
def test_what_no_kme_would_give_is_not_asked_for(server, request_):
    with pytest.raises(QkdUnavailable, match="Ask for"):
        server.enc_keys(ALICE, **request_)


def test_no_key_ids_and_the_same_twice_are_not_asked_for(alice):
    for key_ids in ([], [uuid.UUID(int=1)] * 2):
        with pytest.raises(QkdUnavailable, match="different key ids"):
            alice.dec_keys(SERVER, key_ids)


def test_an_unknown_peer_is_refused_with_the_kmes_reason(server):
    with pytest.raises(QkdUnavailable, match="no such SAE"):
        server.enc_keys("sae-nobody")


def test_an_sae_id_is_one_segment_of_the_path(files):
    heard = []
    answer = http_answer(json.dumps({"message": "heard"}).encode(), status="400 Bad Request")
    with rogue_kme(files, answer, heard=heard) as url, pytest.raises(QkdUnavailable, match="heard"):
        client_of(files, ALICE, url).status("a/../b c?d#ü")
    assert heard[0].startswith(b"GET /api/v1/keys/a%2F..%2Fb%20c%3Fd%23%C3%BC/status HTTP/1.1\r\n")


def key_container(*key_ids, size=32):
    keys = [etsi014.QkdKey(key_id, bytes([7]) * size) for key_id in key_ids]
    return http_answer(etsi014.write_key_container(keys))


def test_other_keys_than_those_named_are_refused(files):
    with rogue_kme(files, key_container(uuid.uuid4())) as url, pytest.raises(QkdUnavailable, match="other keys"):
        client_of(files, ALICE, url).dec_keys(SERVER, [uuid.uuid4()])


def test_a_key_of_another_size_is_refused(files):
    with rogue_kme(files, key_container(uuid.uuid4(), size=16)) as url, pytest.raises(QkdUnavailable, match="256"):
        client_of(files, ALICE, url).enc_keys(SERVER)


BIG = etsi014.MAX_MESSAGE_BYTES + 1
REDIRECT = http_answer(b"", status="302 Found", headers="Location: https://127.0.0.1:1/\r\n")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (http_answer(b"<html>"), "not a well-formed"),
        (http_answer(b""), "not a well-formed"),
        (http_answer(b" " * BIG), "longer than"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * BIG, "longer than"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nshort", "cannot be reached"),
        (http_answer(b"{}" * 9).replace(b"18", b"99"), "cut off"),
        (http_answer(b"oops", status="503 Service Unavailable"), "status 503: it gave no reason"),
        (http_answer(b'{"message":"try later"}', status="503 Service Unavailable"), "status 503: try later"),
        (REDIRECT, "status 302"),
        (b"", "cannot be reached"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "cannot be reached"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101 + b"\r\n", "cannot be reached"),
    ],
    ids=["html", "empty", "oversize", "endless", "chunk cut", "cut", "no reason", "reason", "redirect", "silent",
         "another protocol", "many headers"],
)  # fmt: skip
def test_a_bad_answer_is_a_typed_failure(files, answer, sentence):
    with rogue_kme(files, answer) as url, pytest.raises(QkdUnavailable, match=sentence):
        client_of(files, ALICE, url).enc_keys(SERVER)


def test_a_kme_that_drips_its_answer_is_left_at_the_deadline(files):
    gone = threading.Event()

    def dripping():
        yield b"HTTP/1.1 200 OK\r\nX: "
        while not gone.wait(0.02):
            yield b"y"

    started = time.monotonic()
    with rogue_kme(files, dripping()) as url:
        with pytest.raises(QkdUnavailable, match="TimeoutError"):
            client_of(files, ALICE, url, timeout=0.3).enc_keys(SERVER)
        gone.set()
    assert time.monotonic() - started < 3


def test_a_kme_that_does_not_answer_the_handshake_is_left(files):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"https://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(QkdUnavailable, match="TimeoutError"):
            client_of(files, ALICE, url, timeout=0.2).enc_keys(SERVER)


def test_nobody_at_the_address_is_a_typed_failure(files):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(QkdUnavailable, match="ConnectionRefusedError"):
        client_of(files, ALICE, f"https://127.0.0.1:{port}").status(SERVER)


@pytest.mark.parametrize(
    "url",
    ["http://kme", "kme:8443", "https://", "https://kme/api", "https://a@kme", "https://kme?x", "https://kme:port",
     "https://[kme", "https://kme:99999", ""],
)  # fmt: skip
def test_an_address_that_is_not_a_kmes_is_refused(files, url):
    with pytest.raises(QkdUnavailable, match="address"):
        client_of(files, ALICE, url)


@pytest.mark.parametrize("missing", ["sae_certificate", "sae_key", "ca"])
def test_a_missing_file_is_a_typed_failure(files, missing):
    given = {"sae_certificate": files.certificate(ALICE), "sae_key": files.private_key(ALICE), "ca": files.ca}
    with pytest.raises(QkdUnavailable, match="nowhere"):
        KmeClient("https://kme", **given | {missing: files.directory / "nowhere"})


def test_the_key_of_another_certificate_is_refused(files):
    with pytest.raises(QkdUnavailable, match="used together"):
        KmeClient("https://kme", files.certificate(ALICE), files.private_key(BOB), files.ca)


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_passphrase(files, tmp_path):
    key = serialization.load_pem_private_key(files.private_key(ALICE).read_bytes(), None)
    locked = tmp_path / "locked.key"
    encryption = serialization.BestAvailableEncryption(b"hunter2")
    locked.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    with pytest.raises(QkdUnavailable, match="used together"):
        KmeClient("https://kme", files.certificate(ALICE), locked, files.ca)


def test_tls_below_1_2_is_not_spoken(files):
    context = client_of(files, ALICE, "https://kme")._tls
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1
    assert all("GCM" in cipher["name"] or "CHACHA20" in cipher["name"] for cipher in context.get_ciphers())


def test_tls_1_2_alone_is_enough(files, simulator):
    client = client_of(files, SERVER, simulator.server_url)
    client._tls.maximum_version = ssl.TLSVersion.TLSv1_2
    assert len(client.enc_keys(ALICE)) == 1
