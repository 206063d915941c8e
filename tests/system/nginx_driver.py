"""Driver: the site behind a real nginx with the project's own configuration; devices speak TLS 1.3 to it.

Models come straight from the blob folder (`X-Accel-Redirect`): the web's own answer to a download has no body.
"""

import http.client
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from edge_client.http import Http
from qflare_site.processes import free_address
from tests.system.running_site import (
    ROOT,
    KnownUpdateTrainer,
    create_federation,
    enrol,
    set_up_django,
    site,
    wait_for,
)

CHANGE = {"w": np.full(100_000, 0.5, np.float32)}


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that is its own authority; return it and its key."""
    certificate, key = folder / "server.crt", folder / "server.key"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -noenc -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True, timeout=60)
    return certificate, key


@contextmanager
def nginx(folder: Path, address: str, web: str, blobs: Path) -> Iterator[None]:
    """Run nginx with deploy/nginx.conf, its places replaced by this machine's."""
    certificate, key = make_certificate(folder)
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    for named, here in {
        "/tmp/": f"{folder}/",  # noqa: S108 - a place named in the configuration; first, for here may lie in it
        "listen 8443 ssl": f"listen {address} ssl",
        "http://web:8000": f"http://{web}",
        "/run/secrets/tls_certificate": str(certificate),
        "/run/secrets/tls_key": str(key),
        "/var/lib/qflare-blobs/": f"{blobs}/",
        "/dev/stdout": str(folder / "access.log"),
        "/dev/stderr": str(folder / "error.log"),
        "events {": ("user root;\n" if os.geteuid() == 0 else "") + "daemon off;\nevents {",
    }.items():
        assert named in text, f"deploy/nginx.conf does not say {named}"
        text = text.replace(named, here)
    (folder / "nginx.conf").write_text(text)
    command = [shutil.which("nginx") or "nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    tried = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    assert tried.returncode == 0, tried.stderr
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def ask(url: str, path: str, context: ssl.SSLContext) -> http.client.HTTPResponse:
    """Return the answer to a GET, its body unread."""
    connection = http.client.HTTPSConnection(urlsplit(url).netloc, context=context, timeout=10)
    connection.request("GET", path)
    return connection.getresponse()


def answers(url: str, context: ssl.SSLContext) -> bool:
    """Say whether nginx and the web behind it answer."""
    try:
        return ask(url, "/health/ready", context).status == 200
    except OSError:
        return False


def check_outside(url: str, context: ssl.SSLContext, blob: str) -> None:
    """Check what a stranger meets: TLS 1.3 alone, no way into the folder, an admin that asks to sign in."""
    old = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        ask(url, "/health/live", old)
    except ssl.SSLError:
        pass
    else:
        raise AssertionError("TLS 1.2 was accepted")
    assert ask(url, f"/internal-blobs/{blob}", context).status == 404
    assert ask(url, "/metrics", context).status == 404
    signing_in = ask(url, "/admin/", context)
    assert signing_in.status == 302
    assert "login" in signing_in.headers["Location"]
    assert "max-age" in ask(url, "/admin/login/", context).headers["Strict-Transport-Security"]


def check_resumed(url: str, folder: Path, blob: str, whole: bytes) -> None:
    """Cut a download behind its first bytes and go on: nginx sends the rest alone."""
    path, target = f"/api/blobs/{blob}", folder / "resumed"
    http = Http(url)
    with http.opened(path, {}) as response:
        target.write_bytes(next(response.iter_bytes(1000)))
    http.download_into(target, path, size_bytes=len(whole))
    http.close()
    assert target.read_bytes() == whole
    resumed = f'"GET {path} HTTP/1.1" 206 {len(whole) - 1000} '
    wait_for(lambda: resumed in (folder / "access.log").read_text(), "nginx to have sent the rest alone")


def main() -> None:
    folder = Path(sys.argv[1])
    address, web = free_address(), free_address()
    os.environ |= {
        "QFLARE_BLOB_ACCEL": "/internal-blobs/",
        "QFLARE_TRUSTED_PROXIES": "127.0.0.1/32",
        "QFLARE_INSECURE_HTTP": "0",
        "SSL_CERT_FILE": str(folder / "server.crt"),
    }
    set_up_django()
    from django.conf import settings

    from training.models import Round, RoundState

    with site(bind=web), nginx(folder, address, web, settings.QFLARE_BLOB_DIR):
        url, context = f"https://{address}", ssl.create_default_context(cafile=folder / "server.crt")
        wait_for(lambda: answers(url, context), "nginx to answer")
        federation = create_federation({"w": np.zeros(100_000, np.float32)})
        workers = [enrol(url, f"site-{n}", folder, KnownUpdateTrainer(CHANGE, 10)) for n in (1, 2, 3)]
        done = Round.objects.filter(federation=federation, state=RoundState.COMPLETED)
        open_rounds(federation, workers, done)
        check_outside(url, context, federation.current_version.blob_digest)
        check_resumed(url, folder, federation.current_version.blob_digest, encrypted(federation))
        served = (folder / "access.log").read_text().count("GET /api/blobs/")
        assert served >= 6, f"nginx saw {served} downloads"
    print("two rounds behind nginx")  # noqa: T201


def encrypted(federation: object) -> bytes:
    """Return the encrypted model as it lies in the blob store."""
    from training.blobs import blob_path

    return blob_path(federation.current_version.blob_digest).read_bytes()


def open_rounds(federation: object, workers: list, done: object) -> None:
    """Work two rounds: the second's model is one that an enclave made."""
    from django.utils import timezone

    from training.services.rounds import open_round

    for number in (1, 2):
        open_round(federation.id, actor="operator:test", now=timezone.now())
        for worker in workers:
            wait_for(lambda worker=worker: worker.work_once()[0], "a device to hand in")
        wait_for(lambda number=number: done.count() == number, "the round to be completed")


if __name__ == "__main__":
    main()
