"""Flower's deployment engine: a SuperLink and one SuperNode per device, with TLS and SuperNode authentication."""

import contextlib
import datetime
import ipaddress
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.compare.counting_proxy import CountingProxy
from bench.compare.platform_processes import await_port, free_port, stop
from bench.compare.task import Figures, Task
from bench.fleet.meter import OFTEN_SECONDS, Meter, family

APP = Path(__file__).parent / "flower_app"
LIMIT_SECONDS = 1800


def run(task: Task) -> Figures:
    """Start everything, submit one run, wait for its end, and return the figures."""
    with tempfile.TemporaryDirectory(prefix="flower-compare-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        _make_certificates(folder)
        started = time.perf_counter()
        port = free_port()
        processes = [_superlink(folder, port)]
        stack.callback(stop, processes)
        await_port(port, "Flower's SuperLink")
        proxy = stack.enter_context(CountingProxy(("127.0.0.1", port)))
        environment = _cli_environment(folder, port)
        meter = Meter(
            {
                "all": lambda: [one for process in processes for one in family(process.pid)],
                "one": lambda: family(processes[1].pid) if len(processes) > 1 else [],
            },
            lambda: 0,
            OFTEN_SECONDS,
        )
        with meter.window() as window:
            for number in range(task.devices):
                processes.append(_supernode(folder, number, task, proxy.port, environment))
            figures = _trained(folder, task, environment, processes)
        figures.total_seconds = time.perf_counter() - started
        figures.peak_bytes, figures.peak_device_bytes = window.peak_bytes["all"], window.peak_bytes["one"]
        figures.wire_bytes = proxy.total_bytes
    return figures


def _superlink(folder: Path, port: int) -> subprocess.Popen[bytes]:
    command = [
        *(_tool("flower-superlink"), "--host", "127.0.0.1", "--port", str(port), "--enable-supernode-auth"),
        *("--ssl-certfile", str(folder / "server.pem"), "--ssl-keyfile", str(folder / "server.key")),
        *("--ssl-ca-certfile", str(folder / "ca.pem"), "--disable-runtime-dependency-installation"),
    ]
    return _start(command, folder / "superlink.log", {"FLWR_HOME": str(folder / "flwr-server")})


def _supernode(
    folder: Path, number: int, task: Task, port: int, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Make the node's keys, register them, and start it."""
    key = ec.generate_private_key(ec.SECP384R1())
    private, public = folder / f"node-{number}", folder / f"node-{number}.pub"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    )
    subprocess.run(  # noqa: S603 - Flower's own command
        [_tool("flwr"), "supernode", "register", str(public), "bench"], env=environment, check=True, stdout=sys.stderr
    )
    command = [
        *(_tool("flower-supernode"), "--superlink", f"127.0.0.1:{port}", "--port", str(free_port())),
        *("--root-certificates", str(folder / "ca.pem"), "--auth-supernode-private-key", str(private)),
        *("--ssl-certfile", str(folder / "server.pem"), "--ssl-keyfile", str(folder / "server.key")),
        *("--ssl-ca-certfile", str(folder / "ca.pem")),
        *("--node-config", f"partition-id={number} num-partitions={task.devices}"),
    ]
    return _start(command, folder / f"node-{number}.log", {"FLWR_HOME": str(folder / f"flwr-{number}")})


def _trained(
    folder: Path, task: Task, environment: dict[str, str], processes: list[subprocess.Popen[bytes]]
) -> Figures:
    report = folder / "report.json"
    config = f"devices={task.devices} rounds={task.rounds} report='{report}' parameters='{_quoted(task)}'"
    config += f" trainer='{task.trainer}' evaluated={str(not task.wide).lower()}"
    app = folder / "app"
    shutil.copytree(APP, app)
    command = [_tool("flwr"), "run", str(app), "bench", "--run-config", config]
    subprocess.run(command, env=environment, check=True, stdout=sys.stderr)  # noqa: S603 - Flower's own command
    deadline = time.monotonic() + LIMIT_SECONDS
    while not report.exists():
        if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
            logs = "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("*.log"))[:3])
            raise SystemExit(f"Flower's run did not end:\n{logs}")
        time.sleep(0.2)
    found = json.loads(report.read_text())
    return Figures("Flower", version("flwr"), found["round_seconds"], found["accuracies"])


def _quoted(task: Task) -> str:
    return json.dumps(task.parameters).replace('"', "|")


def _cli_environment(folder: Path, port: int) -> dict[str, str]:
    home = folder / "flwr-cli"
    home.mkdir()
    (home / "config.toml").write_text(
        '[superlink]\ndefault = "bench"\n\n'
        f'[superlink.bench]\naddress = "127.0.0.1:{port}"\nroot-certificates = "{folder / "ca.pem"}"\n'
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "PATH": path}


def _start(command: list[str], log: Path, further: dict[str, str]) -> subprocess.Popen[bytes]:
    environment = os.environ | further | {"FLWR_TELEMETRY_ENABLED": "0", "PYTHONPATH": str(Path.cwd())}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"  # it starts its own tools
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with log.open("wb") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output)  # noqa: S603


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _make_certificates(folder: Path) -> None:
    """Make an authority and a certificate for 127.0.0.1, good for a day."""
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("bench authority", authority_key.public_key(), "bench authority", authority_key, ca=True)
    server = _certificate("127.0.0.1", server_key.public_key(), "bench authority", authority_key, ca=False)
    (folder / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    (folder / "server.pem").write_bytes(server.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def _certificate(
    subject: str, public: ec.EllipticCurvePublicKey, issuer: str, signer: ec.EllipticCurvePrivateKey, *, ca: bool
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in (subject, issuer)]
    builder = x509.CertificateBuilder().subject_name(names[0]).issuer_name(names[1]).public_key(public)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now)
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if not ca:
        places = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(places), critical=False)
    return builder.sign(signer, hashes.SHA256())
