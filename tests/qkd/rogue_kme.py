"""A TLS server with a valid certificate that answers whatever a test gives it, at the pace the test sets."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator

from qflare_site.demo.kme_certificates import KME_IDS, SimulatorFiles


@contextlib.contextmanager
def rogue_kme(
    files: SimulatorFiles,
    answer: bytes | Iterable[bytes],
    *,
    name: str = KME_IDS[0],
    heard: list[bytes] | None = None,
) -> Iterator[str]:
    """Serve one connection with the certificate of that name and yield the address.

    Pieces of `answer` leave one by one; the request is noted in `heard`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate(name), files.private_key(name))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, context, answer, [] if heard is None else heard))
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            thread.join()


def _serve(
    listener: socket.socket, context: ssl.SSLContext, answer: bytes | Iterable[bytes], heard: list[bytes]
) -> None:
    connection, _ = listener.accept()
    connection.settimeout(5)
    # A client that has seen enough hangs up in the middle; that is what some tests are about.
    with connection, contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
        heard.append(tls.recv(65536))
        for piece in [answer] if isinstance(answer, bytes) else answer:
            tls.sendall(piece)
        tls.unwrap()


def http_answer(body: bytes, *, status: str = "200 OK", headers: str = "") -> bytes:
    """Return an HTTP answer that states its length."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body
