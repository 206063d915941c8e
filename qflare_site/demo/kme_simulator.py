"""A simulator of two linked KMEs (ETSI GS QKD 014 V1.1.1), for demonstrations and tests.

What is real: mutual TLS, the identity of an SAE by its certificate, the data formats, fresh random
keys that each side gets once. What is not: the quantum channel. One process holds both ends, so
whoever reads its memory reads the keys; it must never stand in for a KME in production.
"""

import contextlib
import ssl
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from qflare_protocol.qkd import etsi014
from qflare_protocol.qkd.errors import QkdUnavailable
from qflare_site.demo.kme_certificates import KME_IDS, SimulatorFiles
from qflare_site.demo.kme_keys import KeyRefused, LinkLimits, SimulatedLink

CONNECTION_SECONDS = 10.0
_POLL_SECONDS = 0.05  # how long the end of the simulator may wait for its threads
_PREFIX = ["", "api", "v1", "keys"]
_NOT_ATTACHED = "the certificate is not that of an SAE of this KME"


@dataclass(frozen=True)
class SimulatedKme:
    """One end of the link: the SAEs attached to it, those at the other end, and the keys between them."""

    kme_id: str
    peer_kme_id: str
    attached: frozenset[str]
    peers: frozenset[str]
    link: SimulatedLink

    def answer(self, sae_id: str, peer_sae_id: str, operation: str, body: bytes) -> bytes:
        """Serve one request of an SAE whose certificate TLS has verified. Raises `KeyRefused`."""
        if sae_id not in self.attached:
            raise KeyRefused(HTTPStatus.UNAUTHORIZED, _NOT_ATTACHED)
        if peer_sae_id not in self.peers:
            raise KeyRefused(HTTPStatus.BAD_REQUEST, "there is no such SAE at the other end", SAE_ID=peer_sae_id)
        if operation == "status":
            return etsi014.write_status(self._status(sae_id, peer_sae_id))
        try:
            if operation == "enc_keys":
                keys = self.link.draw((sae_id, peer_sae_id), etsi014.read_key_request(body))
            else:
                keys = self.link.deliver((peer_sae_id, sae_id), etsi014.read_key_ids(body))
        except QkdUnavailable as fault:
            raise KeyRefused(HTTPStatus.BAD_REQUEST, str(fault)) from fault
        return etsi014.write_key_container(keys)

    def _status(self, sae_id: str, peer_sae_id: str) -> etsi014.KmeStatus:
        limits = self.link.limits
        return etsi014.KmeStatus(
            source_kme_id=self.kme_id,
            target_kme_id=self.peer_kme_id,
            master_sae_id=sae_id,
            slave_sae_id=peer_sae_id,
            key_size_bits=limits.key_size_bits,
            stored_key_count=self.link.stored_keys((sae_id, peer_sae_id)),
            max_key_count=limits.max_key_count,
            max_key_per_request=limits.max_key_per_request,
            max_key_size_bits=limits.max_key_size_bits,
            min_key_size_bits=limits.min_key_size_bits,
            max_sae_id_count=0,
        )


class _Handler(BaseHTTPRequestHandler):
    """Reads one request of an SAE and answers it as its KME does."""

    server: "_Endpoint"
    server_version = "QFLARE-KME-simulator"
    timeout = CONNECTION_SECONDS

    def setup(self) -> None:
        """Shake hands here, in the connection's own thread: a peer that stalls holds up nobody else."""
        self.request.settimeout(CONNECTION_SECONDS)
        self.request.do_handshake()
        super().setup()

    def do_GET(self) -> None:
        self._serve(urlsplit(self.path).query)

    def do_POST(self) -> None:
        self._serve("")

    def _serve(self, query: str) -> None:
        try:
            peer_sae_id, operation = self._target()
            body = _body_of_query(operation, query) if self.command == "GET" else self._body()
            if operation == "status" and self.command != "GET":
                raise KeyRefused(HTTPStatus.METHOD_NOT_ALLOWED, "the status is asked for by GET")
            answer = self.server.kme.answer(self._sae_id(), peer_sae_id, operation, body)
        except KeyRefused as refused:
            self._answer(refused.status, etsi014.write_error(refused.message, refused.details))
        else:
            self._answer(HTTPStatus.OK, answer)

    def _sae_id(self) -> str:
        """Return the common name of the certificate, which TLS has verified."""
        subject = self.request.getpeercert()["subject"]
        names = [value for rdn in subject for name, value in rdn if name == "commonName"]
        if len(names) != 1:
            raise KeyRefused(HTTPStatus.UNAUTHORIZED, _NOT_ATTACHED)
        return str(names[0])

    def _target(self) -> tuple[str, str]:
        segments = urlsplit(self.path).path.split("/")
        if segments[:4] != _PREFIX or len(segments) != 6 or segments[5] not in ("status", "enc_keys", "dec_keys"):
            raise KeyRefused(HTTPStatus.NOT_FOUND, "there is no such resource")
        return unquote(segments[4]), segments[5]

    def _body(self) -> bytes:
        stated = self.headers.get("Content-Length", "0")
        if not stated.isdecimal() or int(stated) > etsi014.MAX_MESSAGE_BYTES:
            raise KeyRefused(HTTPStatus.BAD_REQUEST, "the request is too long or does not state its length")
        return self.rfile.read(int(stated))

    def _answer(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Write no line per request."""


def _body_of_query(operation: str, query: str) -> bytes:
    """Return the POST body that asks for the same as a GET's query (clauses 5.2 and 5.3)."""
    values = parse_qs(query)
    if operation == "dec_keys":
        return etsi014.write_object({"key_IDs": [{"key_ID": key_id} for key_id in values.get("key_ID", [])]})
    numbers = {name: values[name][0] for name in ("number", "size") if name in values}
    if not all(value.isascii() and value.isdecimal() and len(value) < 10 for value in numbers.values()):
        raise KeyRefused(HTTPStatus.BAD_REQUEST, "number and size are whole numbers")
    return etsi014.write_object({name: int(value) for name, value in numbers.items()})


class _Endpoint(ThreadingHTTPServer):
    """The address of one KME. Connections without a certificate of the authority end in the TLS handshake."""

    daemon_threads = True

    def __init__(self, kme: SimulatedKme, files: SimulatorFiles, port: int) -> None:
        self.kme = kme
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._tls.verify_mode = ssl.CERT_REQUIRED
        self._tls.load_verify_locations(cafile=files.ca)
        self._tls.load_cert_chain(files.certificate(kme.kme_id), files.private_key(kme.kme_id))
        super().__init__(("127.0.0.1", port), _Handler)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        return self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Write no traceback: a failed handshake or a lost connection is the client's to report."""


class KmeSimulator:
    """Two simulated KMEs on 127.0.0.1: one for the server's SAE, one for the devices'. Use it with `with`.

    With port 0 free ports are chosen; else the first KME has `port` and the second the next one.
    """

    def __init__(
        self,
        files: SimulatorFiles,
        *,
        server_saes: Iterable[str],
        device_saes: Iterable[str],
        port: int = 0,
        link: SimulatedLink | None = None,
    ) -> None:
        shared = link or SimulatedLink(LinkLimits())
        ends = (frozenset(server_saes), frozenset(device_saes))
        kmes = [
            SimulatedKme(kme_id, peer_kme_id, attached, peers, shared)
            for kme_id, peer_kme_id, attached, peers in zip(KME_IDS, KME_IDS[::-1], ends, ends[::-1], strict=True)
        ]
        with contextlib.ExitStack() as bound:
            self._endpoints = [
                bound.enter_context(_Endpoint(kme, files, port and port + index)) for index, kme in enumerate(kmes)
            ]
            bound.pop_all()  # both ports are ours: they stay open until __exit__
        self._threads = [
            threading.Thread(target=endpoint.serve_forever, args=(_POLL_SECONDS,)) for endpoint in self._endpoints
        ]

    @property
    def server_url(self) -> str:
        """Where the server's SAE finds its KME."""
        return self._url(0)

    @property
    def device_url(self) -> str:
        """Where the devices' SAEs find theirs."""
        return self._url(1)

    def _url(self, index: int) -> str:
        return f"https://127.0.0.1:{self._endpoints[index].server_address[1]}"

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for endpoint, thread in zip(self._endpoints, self._threads, strict=True):
            endpoint.shutdown()
            thread.join()
            endpoint.server_close()
