"""The site behind a real nginx, natively: what compose runs in containers."""

import http.client
import json
import shutil
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from qflare_site.processes import free_address
from tests.system.nginx_driver import nginx
from tests.system.running_site import run_driver, wait_for

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("nginx"),
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not here"),
]


def test_devices_train_over_tls_through_nginx_which_sends_the_models_itself(tmp_path: Path) -> None:
    assert "two rounds behind nginx" in run_driver("tests.system.nginx_driver", str(tmp_path))


class Echo(BaseHTTPRequestHandler):
    """A web that answers the headers that reached it."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        answer = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


Connect = Callable[[], AbstractContextManager[http.client.HTTPSConnection]]


@pytest.fixture(scope="module")
def in_front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connect]:
    """Ways through nginx, with the project's configuration, to a web that echoes."""
    folder, address = tmp_path_factory.mktemp("nginx"), free_address()
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as web, ThreadPoolExecutor(1) as runner:
        runner.submit(web.serve_forever)
        try:
            with nginx(folder, address, f"127.0.0.1:{web.server_port}", folder):
                trust = ssl.create_default_context(cafile=folder / "server.crt")

                def connect() -> AbstractContextManager[http.client.HTTPSConnection]:
                    return closing(http.client.HTTPSConnection(address, context=trust, timeout=20))

                wait_for(lambda: _reached(connect), "nginx to answer")
                yield connect
        finally:
            web.shutdown()


def _reached(connect: Connect) -> bool:
    with connect() as connection:
        try:
            connection.connect()
        except OSError:
            return False
    return True


@pytest.mark.parametrize("path", ["/", "/api/enroll", "/federations/new"])
def test_what_a_client_says_of_itself_and_its_trace_does_not_get_through(in_front: Connect, path: str) -> None:
    forged = {"traceparent": "00-1-2-01", "tracestate": "x=y", "X-Forwarded-For": "10.9.9.9", "X-Request-ID": "mine"}
    with in_front() as connection:
        connection.request("POST", path, b"", forged)
        arrived = json.loads(connection.getresponse().read())
    assert not {"traceparent", "tracestate"} & set(arrived)
    assert arrived["x-forwarded-for"] == "127.0.0.1"
    assert arrived["x-forwarded-proto"] == "https"
    assert len(arrived["x-request-id"]) == 32


@pytest.mark.parametrize(("path", "status"), [
    ("/accounts/login/", 413), ("/admin/", 413), ("/federations/new/x", 413), ("/apiary", 413),
    ("/api/submit_model", 200), ("/federations/new", 200),
])  # fmt: skip
def test_only_devices_and_a_new_federation_send_more_than_three_mebibytes(
    in_front: Connect, path: str, status: int
) -> None:
    body = bytes(3 * 1024 * 1024 + 1)
    with in_front() as connection:
        connection.putrequest("POST", path)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        if status == 200:  # what is refused is refused by its length alone
            connection.send(body)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
