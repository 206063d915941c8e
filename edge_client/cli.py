"""`qflare-edge`: the command line of a device."""

import argparse
import contextlib
import getpass
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import structlog

from edge_client.backoff import Backoff, retrying
from edge_client.client_certificate import add_certificate_arguments, client_certificate
from edge_client.device_state import DeviceStateFile
from edge_client.enrolment import enroll_device
from edge_client.http import Http, ServerUnreachable
from edge_client.identity_keeper import IdentityKeeper
from edge_client.key_store import DeviceIdentity, KeyFileLock, PassphraseLock, StoreLock, load_identity, save_identity
from edge_client.manual_checks import key_report, manual_handshake, try_new_keys
from edge_client.metrics import MetricsUnavailable, add_metrics_arguments, metrics_served
from edge_client.pqc_status import choose_engines, print_pqc_status
from edge_client.preflight import preflight
from edge_client.qkd import add_qkd_arguments, qkd_settings
from edge_client.round_worker import RoundWorker
from edge_client.session import DeviceSession
from edge_client.storage import DISK_IS_FULL, disk_is_full, hold_home, write_private_file
from edge_client.trainer import TrainingFailed, load_trainer
from edge_client.training_limits import IDLE_SECONDS, Limits
from edge_client.training_process import TrainingProcess
from edge_client.trust_commands import add_trust_commands
from qflare_protocol.errors import Refusal
from qflare_protocol.suites import DEFAULT_SUITE, SUITES
from qflare_protocol.tensors import decode_tensors, encode_tensors

EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_FAILED_CHECK = 2, 3, 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 2 refused, 3 unreachable, 4 a check failed."""
    options = _parser().parse_args(arguments)
    _log_to_stderr(options.json_logs)
    signal.signal(signal.SIGTERM, _stop)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        choose_engines()
        return command(options)
    except Refusal as refusal:
        _say(f"Refused ({refusal.code}): {refusal.detail}", error=True)
        return EXIT_REFUSED
    except TrainingFailed as failure:
        _say(f"The training code cannot be run: {failure}", error=True)
        return EXIT_FAILED_CHECK
    except MetricsUnavailable as failure:
        _say(str(failure), error=True)
        return EXIT_FAILED_CHECK
    except ServerUnreachable as failure:
        _say(f"The server cannot be reached: {failure}", error=True)
        return EXIT_UNREACHABLE
    except OSError as error:
        if not disk_is_full(error):
            raise
        _say(f"{DISK_IS_FULL.capitalize()}: {error}", error=True)
        return EXIT_FAILED_CHECK
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qflare-edge", description="A QFLARE edge device.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    home = os.environ.get("QFLARE_EDGE_HOME", str(Path.home() / ".qflare-edge"))
    parser.add_argument("--home", type=Path, default=Path(home), help="folder of the key store (default: %(default)s)")
    parser.add_argument("--key-file", type=Path, help="unlock the key store by this 0600 file, made on first use")
    parser.add_argument("--passphrase-file", type=Path, help="read the passphrase from this file instead of asking")
    parser.add_argument("--json-logs", action="store_true", help="log one JSON object a line")
    add_certificate_arguments(parser)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_enrolment(commands)
    _add_work(commands)
    _add_checks(commands)
    _add_keys(commands)
    _add_model_commands(commands)
    return parser


def _version() -> str:
    """Return the version of the package that this is part of: the device's alone, or the whole site's."""
    for package in ("qflare-edge", "qflare"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return "of a working copy"


def _add_enrolment(commands: Any) -> None:
    enroll = commands.add_parser("enroll", help="enrol this device with a one-time token")
    _add_token_arguments(enroll)
    enroll.set_defaults(command=_enroll)
    add_trust_commands(commands)


def _add_token_arguments(command: Any) -> None:
    only_first = command.add_argument_group("enrolment", "needed once, while this device has no key store")
    only_first.add_argument("--server", help="address of the server, such as https://qflare.example")
    only_first.add_argument("--token", help="the token; without it, from --token-file, QFLARE_TOKEN or standard input")
    only_first.add_argument("--token-file", type=Path)
    only_first.add_argument("--name", default=socket.gethostname(), help="name of the device (default: %(default)s)")
    only_first.add_argument("--suite", choices=sorted(SUITES), default=DEFAULT_SUITE)


def _add_work(commands: Any) -> None:
    run = commands.add_parser("run", help="work rounds until stopped")
    run.add_argument("--rounds", type=int, help="stop after this many updates")
    once = commands.add_parser("train-once", help="work one round and stop")
    once.set_defaults(rounds=1)
    for command in (run, once):
        _add_token_arguments(command)
        _add_training_code(command)
        _add_limits(command)
        add_qkd_arguments(command)
        add_metrics_arguments(command)
        command.add_argument("--longest-wait", type=float, default=60.0, help="longest wait between retries, seconds")
        command.set_defaults(command=_run)


def _add_limits(command: Any) -> None:
    group = command.add_argument_group("limits of the training code in one round")
    memory = "memory of each of its processes, beyond its imports"
    group.add_argument("--memory-limit", type=_positive, metavar="MIB", help=memory)
    processor = "processor time of all its threads and processes together"
    group.add_argument("--cpu-limit", type=_positive, metavar="SECONDS", help=processor)
    group.add_argument("--time-limit", type=_positive, metavar="SECONDS", help="time by the clock")
    idle = "time without any processor time, after which it counts as hung; 0: none (default: %(default)s)"
    group.add_argument("--idle-limit", type=_not_negative, metavar="SECONDS", default=IDLE_SECONDS, help=idle)


def _limits(options: argparse.Namespace) -> Limits:
    memory_bytes = options.memory_limit and options.memory_limit << 20
    return Limits(memory_bytes, options.cpu_limit, options.time_limit, options.idle_limit or None)


def _add_training_code(command: Any) -> None:
    code = "training code as module:Class, or an unchanged Flower client as flower:module:client"
    command.add_argument("--trainer", "--app", dest="trainer", required=True, metavar="CODE", help=code)
    command.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="option of the trainer")


def _add_checks(commands: Any) -> None:
    status = commands.add_parser("status", help="show who this device is and what it has done")
    status.set_defaults(command=_status)
    check = commands.add_parser("preflight", help="check keys, disk, server, clock, session and policy")
    check.set_defaults(command=_preflight)
    pqc = commands.add_parser("pqc-status", help="show which engine serves each algorithm, how fast, and which suites")
    pqc.add_argument("--suite", action="append", dest="suites", metavar="SUITE", help="fail unless it can be served")
    pqc.add_argument("--json", action="store_true", help="print JSON for machines")
    pqc.add_argument("--no-rates", action="store_true", help="do not measure the rates, which takes seconds")
    pqc.set_defaults(command=print_pqc_status)
    shake = commands.add_parser("handshake", help="open a session, rekey it twice, close it; show each step")
    shake.set_defaults(command=_handshake)
    for command in (check, shake):
        add_qkd_arguments(command)


def _add_keys(commands: Any) -> None:
    keys = commands.add_parser("keys", help="make, show and rotate device keys")
    verbs = keys.add_subparsers(title="verbs", required=True, metavar="VERB")
    show = verbs.add_parser("show", help="show the keys of this device and until when they are valid")
    show.set_defaults(command=_show_keys)
    rotate = verbs.add_parser("rotate", help="register new keys with the server now")
    rotate.set_defaults(command=_rotate_keys)
    generate = verbs.add_parser("generate", help="make a key pair of a suite for manual checks, and try it")
    generate.add_argument("--suite", choices=sorted(SUITES), default=DEFAULT_SUITE)
    generate.add_argument("--output", type=Path, help="write the public keys to this new folder")
    generate.set_defaults(command=_generate_keys)


def _add_model_commands(commands: Any) -> None:
    initial = commands.add_parser("initial-model", help="write the weights a federation starts from")
    initial.add_argument("--output", type=Path, required=True)
    initial.set_defaults(command=_initial_model)
    evaluate = commands.add_parser("evaluate", help="print a model's metrics as one line of JSON")
    evaluate.add_argument("--model", type=Path, required=True)
    evaluate.set_defaults(command=_evaluate)
    for command in (initial, evaluate):
        _add_training_code(command)
        command.add_argument("--parameters", type=json.loads, default={}, help="trainer parameters as JSON")


def _enroll(options: argparse.Namespace) -> int:
    if _store(options).exists():
        raise Refusal("conflict", f"There is a key store at {_store(options)} already; this device is enrolled.")
    _enroll_here(options)
    return 0


def _enroll_here(options: argparse.Namespace) -> DeviceIdentity:
    if not options.server:
        raise Refusal("not-found", "This device is not enrolled; name its server (--server) and a token.")
    store, lock, http = _store(options), _lock(options, new=True), _http(options, options.server)
    token = _token(options)
    identity = retrying(
        lambda: enroll_device(http, options.server, token, options.name, suite=options.suite),
        backoff=Backoff(attempts=6),
        what="enrolment",
    )
    save_identity(store, lock, identity)
    _say(f"Enrolled as {identity.name}, device {identity.device_id.hex()}; keys in {store}.")
    return identity


def _run(options: argparse.Namespace) -> int:
    training = TrainingProcess(options.trainer, _trainer_options(options), _limits(options))
    try:
        training.open()  # a wrong name, or a slow import, shows before a round waits for it
        if not _store(options).exists():
            _enroll_here(options)
        keeper, memory = _keeper(options), DeviceStateFile(options.home)
        backoff = Backoff(maximum_seconds=options.longest_wait)
        http = _http(options, keeper.identity.server)
        worker = RoundWorker(http, keeper, memory, training, backoff, qkd=qkd_settings(options))
        with metrics_served(options.metrics_port, options.metrics_host):
            done = worker.run(rounds=options.rounds)
    finally:
        training.close()
    _say(f"{done} updates handed in.")
    return 0


def _status(options: argparse.Namespace) -> int:
    identity, state = _identity(options), DeviceStateFile(options.home).state
    rows = {
        "device": f"{identity.name} ({identity.device_id.hex()})",
        "server": identity.server,
        "suite": identity.keys.suite,
        "server identity": identity.identity.fingerprint.hex(),
        "log seen": f"{state.checkpoint.size} entries" if state.checkpoint else "nothing yet",
        "enclaves pinned": ", ".join(state.pins.hosts()) or "none yet",
        "updates handed in": str(state.rounds_done),
    }
    for name, value in rows.items():
        _say(f"{name:18} {value}")
    return 0


def _preflight(options: argparse.Namespace) -> int:
    session, memory = _session(options)
    checks = list(preflight(options.home, _http(options, session.identity.server), session, memory))
    for check in checks:
        _say(f"{'ok    ' if check.passed else 'FAILED'}  {check.name:8} {check.sentence}")
    return 0 if all(check.passed for check in checks) else EXIT_FAILED_CHECK


def _handshake(options: argparse.Namespace) -> int:
    session, _ = _session(options)
    for sentence in manual_handshake(session):
        _say(sentence)
    return 0


def _show_keys(options: argparse.Namespace) -> int:
    for sentence in key_report(_identity(options)):
        _say(sentence)
    return 0


def _rotate_keys(options: argparse.Namespace) -> int:
    session, _ = _session(options)
    session.rotate_keys()
    for sentence in key_report(session.identity):
        _say(sentence)
    return 0


def _generate_keys(options: argparse.Namespace) -> int:
    for sentence in try_new_keys(options.suite, options.output):
        _say(sentence)
    return 0


def _initial_model(options: argparse.Namespace) -> int:
    trainer = load_trainer(options.trainer, options.parameters, _trainer_options(options))
    write_private_file(options.output, encode_tensors(trainer.initial_model()))
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    trainer = load_trainer(options.trainer, options.parameters, _trainer_options(options))
    _say(json.dumps(trainer.evaluate(decode_tensors(options.model.read_bytes()))))
    return 0


def _identity(options: argparse.Namespace) -> DeviceIdentity:
    return load_identity(_store(options), _lock(options, new=False))


def _keeper(options: argparse.Namespace) -> IdentityKeeper:
    hold_home(options.home)
    store, lock = _store(options), _lock(options, new=False)
    return IdentityKeeper(load_identity(store, lock), lambda identity: save_identity(store, lock, identity))


def _session(options: argparse.Namespace) -> tuple[DeviceSession, DeviceStateFile]:
    keeper, memory = _keeper(options), DeviceStateFile(options.home)
    http = _http(options, keeper.identity.server)
    return DeviceSession(http, keeper, memory, qkd=qkd_settings(options)), memory


def _http(options: argparse.Namespace, server: str) -> Http:
    return Http(server, certificate=client_certificate(options))


def _store(options: argparse.Namespace) -> Path:
    store: Path = options.home / "keys.sealed"
    return store


def _lock(options: argparse.Namespace, *, new: bool) -> StoreLock:
    if options.key_file:
        return KeyFileLock(options.key_file)
    if options.passphrase_file:
        return PassphraseLock(options.passphrase_file.read_text().strip())
    passphrase = getpass.getpass("Passphrase of the key store: ")
    if new and getpass.getpass("Again: ") != passphrase:
        raise Refusal("invalid-key", "The two passphrases differ.")
    return PassphraseLock(passphrase)


def _token(options: argparse.Namespace) -> str:
    if options.token:
        return str(options.token)
    if options.token_file:
        return str(options.token_file.read_text())
    return os.environ.get("QFLARE_TOKEN") or sys.stdin.readline()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("a limit is a whole number from 1")
    return number


def _not_negative(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("a limit is a whole number; 0 means none")
    return number


def _trainer_options(options: argparse.Namespace) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in options.option]
    if not all(separator for _, separator, _ in pairs):
        raise Refusal("malformed-message", "An option of the trainer has the form NAME=VALUE.")
    return {name: value for name, _, value in pairs}


def _log_to_stderr(json_logs: bool) -> None:
    renderer = (
        structlog.processors.JSONRenderer() if json_logs else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _say(sentence: str, *, error: bool = False) -> None:
    stream = sys.stderr if error else sys.stdout
    stream.write(sentence + "\n")
    stream.flush()


def _stop(signum: int, frame: object) -> None:
    raise KeyboardInterrupt
