"""A witness and a time-stamp authority on this machine, by their specifications, for the anchors to talk to."""

import base64
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from qflare_protocol import merkle, pqc
from qflare_protocol.checkpoint import Checkpoint, cosign_as_witness, format_verifier_key, verify_checkpoint
from qflare_protocol.cose import Signer, Verifier
from qflare_protocol.errors import Refusal

Answer = tuple[int, str, bytes]


@contextmanager
def served(handle: Callable[[str, bytes], Answer]) -> Iterator[str]:
    """Serve POST requests by a function of path and body; give the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, media_type, content = handle(self.path, body)
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class LocalWitness:
    """C2SP tlog-witness for one log: it remembers what it cosigned last and demands a proof from there."""

    NAME = "witness.example/w1"

    def __init__(self, origin: str, log_key: Verifier) -> None:
        pair = pqc.signature("ML-DSA-44").generate()
        self.signer = Signer("ML-DSA-44", pair.private, pair.public)
        self.vkey = format_verifier_key(self.NAME, self.signer.verifier)
        self.size, self.root = 0, merkle.EMPTY_ROOT
        self._origin, self._log_key = origin, log_key

    def handle(self, path: str, body: bytes) -> Answer:
        if path != "/add-checkpoint":
            return 404, "text/plain", b""
        head, _, note = body.decode().partition("\n\n")
        old_line, *proof = head.split("\n")
        old = int(old_line.removeprefix("old "))
        try:
            checkpoint = verify_checkpoint(note, self._log_key, self._origin).checkpoint
        except Refusal as refusal:
            return (404 if refusal.code == "proof-refused" else 403), "text/plain", b""
        return self._cosign(old, [base64.b64decode(line) for line in proof], checkpoint)

    def _cosign(self, old: int, proof: list[bytes], checkpoint: Checkpoint) -> Answer:
        if old > checkpoint.size:
            return 400, "text/plain", b""
        if old != self.size:
            return 409, "text/x.tlog.size", f"{self.size}\n".encode()
        try:
            if old:
                merkle.verify_consistency(old, self.root, checkpoint.size, checkpoint.root, proof)
            elif proof:
                return 422, "text/plain", b""
        except Refusal:
            return (409 if old == checkpoint.size else 422), "text/plain", b""
        self.size, self.root = checkpoint.size, checkpoint.root
        line = cosign_as_witness(self.signer, self.NAME, checkpoint, int(time.time()))
        return 200, "text/plain; charset=utf-8", line.encode()


CONFIGURATION = """
[tsa]
default_tsa = own
[own]
serial = {folder}/serial
crypto_device = builtin
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
accuracy = secs:1
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


class LocalTimeStampAuthority:
    """RFC 3161 by `openssl ts`, with a root of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.roots = folder / "root.pem"
        (folder / "serial").write_text("01\n")
        (folder / "tsa.cnf").write_text(CONFIGURATION.format(folder=folder))
        (folder / "ext.cnf").write_text(
            "basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=critical,timeStamping\n"
            "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        self._run(
            "req", "-x509", *curve, "-keyout", "root.key", "-out", "root.pem", "-subj", "/CN=Test root", "-days", "30"
        )
        self._run("req", *curve, "-keyout", "tsa.key", "-out", "tsa.csr", "-subj", "/CN=Test TSA")
        issue = ["-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial", "-extfile", "ext.cnf", "-days", "30"]
        self._run("x509", "-req", "-in", "tsa.csr", "-out", "tsa.pem", *issue)

    def handle(self, _path: str, body: bytes) -> Answer:
        (self.folder / "query").write_bytes(body)
        own = ["-config", "tsa.cnf", "-signer", "tsa.pem", "-inkey", "tsa.key"]
        self._run("ts", "-reply", "-queryfile", "query", *own, "-out", "reply")
        return 200, "application/timestamp-reply", (self.folder / "reply").read_bytes()

    def _run(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)
