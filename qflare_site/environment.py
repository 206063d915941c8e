"""Environment variables of the site: one table of defaults, read once, all mistakes reported together."""

import ipaddress
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured
from environs import EnvValidationError, FileAwareEnv, ValidationError

from audit.anchor_settings import parse_anchors
from qflare_protocol.attestation.pins import parse_pins
from qflare_protocol.errors import Refusal
from qflare_protocol.pqc.registry import parse_engines
from qflare_protocol.suites import DEFAULT_SUITE, DEFAULT_SUITES
from training.blob_store.location import parse_location

DEFAULTS: dict[str, Any] = {
    # Profile: both URLs or neither.
    "DATABASE_URL": "",
    "REDIS_URL": "",
    "BLOB_URL": "",
    # The path of the internal location from which nginx sends blobs (deploy/nginx.conf); empty: the web sends them.
    "QFLARE_BLOB_ACCEL": "",
    # Whether devices are sent to the blob store itself, with presigned addresses; only an S3 store has these.
    "QFLARE_BLOB_REDIRECT": True,
    # Where things are kept.
    "QFLARE_DATA_DIR": "var",
    "QFLARE_KEK_FILE": "",
    "QFLARE_KEK_PROVIDER": "file",
    "QFLARE_ACKNOWLEDGE_FILE_KEK": False,
    "QFLARE_PKCS11_MODULE": "",
    "QFLARE_PKCS11_TOKEN": "",
    "QFLARE_PKCS11_KEY": "qflare-kek",
    "QFLARE_PKCS11_PIN": "",
    "QFLARE_ENCLAVE_DIR": "",
    "QFLARE_ARCHIVE_DIR": "",
    "QFLARE_REDIS_PREFIX": "qflare",
    # Web.
    "DEBUG": False,
    "SECRET_KEY": "",
    "ALLOWED_HOSTS": ["127.0.0.1", "localhost"],
    "CSRF_TRUSTED_ORIGINS": [],
    "QFLARE_INSECURE_HTTP": False,
    "QFLARE_TRUSTED_PROXIES": [],
    # Access: a second factor for everybody who signs in, and how old a sign-in may be for what is sensitive,
    # and what nobody does alone: revoke, release, policy, escrow, access.
    "QFLARE_REQUIRE_SECOND_FACTOR": True,
    "QFLARE_FRESH_SIGN_IN_SECONDS": 300,
    "QFLARE_SECOND_PERSON": [],
    "QFLARE_LOG_LEVEL": "INFO",
    # What a scraper of /metrics has to show; empty: metrics are for this host alone.
    "QFLARE_METRICS_TOKEN": "",
    # Where a Celery worker gives its host's numbers, without a token; 0: nowhere.
    "QFLARE_METRICS_PORT": 0,
    # The OpenTelemetry collector that traces are sent to over HTTP, such as http://collector:4318; empty: none.
    "QFLARE_OTLP_ENDPOINT": "",
    # Requests per second, minute, hour or day that one device, token or address may make.
    "QFLARE_RATE_ENROLMENT": "5/m",
    "QFLARE_RATE_CHALLENGE": "30/m",
    "QFLARE_RATE_SUBMISSION": "60/m",
    "QFLARE_RATE_UPLOAD": "600/m",
    "QFLARE_RATE_DOWNLOAD": "120/m",
    "QFLARE_RATE_WORK": "600/m",
    "QFLARE_RATE_LOG": "600/m",
    "QFLARE_RATE_OPERATOR": "600/m",
    "QFLARE_RATE_SIGN_IN": "30/m",
    "QFLARE_RATE_REFUSAL_EVENTS": "60/m",
    # Sessions and rounds. A key allowance can only be lowered below the protocol's own.
    "QFLARE_SESSION_REQUESTS": 64,
    "QFLARE_SESSION_BYTES": 256 * 1024 * 1024,
    "QFLARE_SESSION_EPOCHS": 3,
    "QFLARE_SESSION_SECONDS": 3600,
    # When a device has to register new keys, and how long its old ones stay valid beside them.
    "QFLARE_DEVICE_KEY_DAYS": 90,
    "QFLARE_DEVICE_KEY_SESSIONS": 10_000,
    "QFLARE_KEY_OVERLAP_SECONDS": 86_400,
    # How many devices without work may ask for it in a second; in a fleet that is too large for it they ask less often.
    "QFLARE_ASKS_PER_SECOND": 300,
    "QFLARE_LEASE_SECONDS": 30,
    "QFLARE_ENCLAVE_ABSENT_SECONDS": 900,
    "QFLARE_MAX_UPDATE_BYTES": 4 * 1024 * 1024 * 1024,
    "QFLARE_UPLOAD_PIECE_BYTES": 8 * 1024 * 1024,
    "QFLARE_EVALUATION_SECONDS": 300,
    # How long ended sessions and what the log's events tell stay in the database, in days; 0: for ever.
    "QFLARE_RETENTION_SESSION_DAYS": 7,
    "QFLARE_RETENTION_DISCLOSURE_DAYS": 0,
    # The suites that devices may be enrolled for, the one that tokens are for by default, and who serves what.
    "QFLARE_SUITES": list(DEFAULT_SUITES),
    "QFLARE_DEFAULT_SUITE": DEFAULT_SUITE,
    "QFLARE_PQC_ENGINES": "",
    # Where checkpoints of the log are laid down outside this house: a JSON list (docs/operations.md).
    "QFLARE_ANCHORS": "",
    # Quantum key distribution: this host's KME and our identity to it; all five or none. Files are paths of PEM.
    "QFLARE_QKD_KME_URL": "",
    "QFLARE_QKD_SAE_ID": "",
    "QFLARE_QKD_CERTIFICATE": "",
    "QFLARE_QKD_PRIVATE_KEY": "",
    "QFLARE_QKD_CA": "",
    # The mail server of notifications, and who they are from; empty: no e-mail.
    "QFLARE_SMTP_URL": "",
    "QFLARE_EMAIL_FROM": "qflare@localhost",
    # Who attests the sealed process, and the platforms that this host's own evidence has to match, as pins.
    "QFLARE_ENCLAVE_ATTESTER": "software",
    "QFLARE_ENCLAVE_PLATFORMS": [],
    # The unprivileged user the sealed process runs as, when the enclave worker is root.
    "QFLARE_ENCLAVE_UID": 65534,
    "QFLARE_ENCLAVE_GID": 65534,
    # What one request to a sealed process may take beside a second for each 50 MB of its blobs.
    "QFLARE_ENCLAVE_REQUEST_SECONDS": 600,
}
"""Every variable the site reads, with its default. `NAME_FILE` names a file that holds the value instead."""

_PARSERS: dict[type, str] = {bool: "bool", int: "int", list: "list", str: "str"}
_RATE = re.compile(r"[1-9][0-9]*/[smhd]")
_SUITE = re.compile(r"QF1-[A-Z0-9]{1,16}")
_ATTESTERS = ("software", "tsm", "nitro", "gramine")  # of enclave.core.attesters.choice
_SECOND_PERSON = ("revoke", "release", "policy", "escrow", "access")  # of operator_admin.actions, which needs Django
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def read_environment() -> dict[str, Any]:
    """Return every variable of `DEFAULTS` parsed and validated.

    Raises `ImproperlyConfigured` naming all bad variables at once; a value is never repeated in the
    message, because it may be a secret.
    """
    env = FileAwareEnv(eager=False, strip_whitespace=True)
    values: dict[str, Any] = {}
    mistakes: dict[str, list[str]] = {}
    for name, default in DEFAULTS.items():
        parse = getattr(env, _PARSERS[type(default)])
        try:
            values[name] = parse(name, default, validate=_VALIDATORS.get(name))
        except ValueError as unreadable_file:
            mistakes[name] = [str(unreadable_file)]
    mistakes |= _seal(env)
    mistakes |= {} if mistakes else _mistakes_between(values)
    if mistakes:
        raise ImproperlyConfigured(_report(mistakes))
    return values


def _seal(env: FileAwareEnv) -> dict[str, list[str]]:
    try:
        env.seal()
    except EnvValidationError as error:
        return dict(error.error_messages)
    return {}


def _mistakes_between(values: dict[str, Any]) -> dict[str, list[str]]:
    """Return the mistakes that only show when two variables are seen together."""
    mistakes: dict[str, list[str]] = {}
    if bool(values["DATABASE_URL"]) != bool(values["REDIS_URL"]):
        absent = "REDIS_URL" if values["DATABASE_URL"] else "DATABASE_URL"
        mistakes[absent] = ["The services profile needs DATABASE_URL and REDIS_URL; the embedded profile has neither."]
    if values["DATABASE_URL"] and not values["SECRET_KEY"]:
        mistakes["SECRET_KEY"] = ["The services profile needs one secret key that all hosts share."]
    if values["QFLARE_BLOB_ACCEL"] and values["BLOB_URL"].startswith("s3://"):
        mistakes["QFLARE_BLOB_ACCEL"] = ["nginx sends blobs of a folder only; with S3 devices go to the store itself."]
    return mistakes


def _report(mistakes: dict[str, list[str]]) -> str:
    lines = [f"  {name}: {' '.join(map(str, sentences))}" for name, sentences in sorted(mistakes.items())]
    return "\n".join(["The environment is not usable:", *lines])


def _url_of(*schemes: str) -> Callable[[str], None]:
    def validate(url: str) -> None:
        if url and urlsplit(url).scheme not in schemes:
            raise ValidationError(f"Must be a URL that begins with {' or '.join(f'{s}://' for s in schemes)}.")

    return validate


def _blob_location(url: str) -> None:
    try:
        parse_location(url or "/")
    except ValueError as error:
        raise ValidationError(str(error)) from error


def _internal_path(path: str) -> None:
    if path and not re.fullmatch(r"/[A-Za-z0-9_-]+/", path):
        raise ValidationError("Must be a path of one word, such as /internal-blobs/.")


def _networks(texts: list[str]) -> None:
    for text in texts:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise ValidationError("Must be a comma separated list of addresses or CIDR networks.") from error


def _second_person(subjects: list[str]) -> None:
    if set(subjects) - set(_SECOND_PERSON):
        raise ValidationError(f"Must be a comma separated list of {', '.join(_SECOND_PERSON)}.")


def _attester(name: str) -> None:
    if name not in _ATTESTERS:
        raise ValidationError(f"Must be one of {', '.join(_ATTESTERS)}.")


def _platforms(pins: list[str]) -> None:
    try:
        parse_pins(pins)
    except Refusal as error:
        raise ValidationError(f"Must be a comma separated list of platform pins. {error.detail}") from error


def _rate(text: str) -> None:
    if not _RATE.fullmatch(text):
        raise ValidationError("Must be a count and a period, such as 5/m; periods are s, m, h and d.")


def _log_level(text: str) -> None:
    if text not in _LOG_LEVELS:
        raise ValidationError(f"Must be one of {', '.join(_LOG_LEVELS)}.")


def _kek_provider(text: str) -> None:
    if text not in ("file", "pkcs11"):
        raise ValidationError("Must be file or pkcs11.")


def _kek_label(text: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,24}", text):
        raise ValidationError("Must be 1 to 24 letters, digits, dashes or underscores; a number is put behind it.")


def _suites(names: list[str]) -> None:
    if not names or len(names) != len(set(names)) or not all(_SUITE.fullmatch(name) for name in names):
        raise ValidationError("Must be a comma separated list of different suites, such as QF1-F640,QF1-K1024.")


def _suite(name: str) -> None:
    if not _SUITE.fullmatch(name):
        raise ValidationError("Must be the name of a suite, such as QF1-F640.")


def _engines(text: str) -> None:
    try:
        parse_engines(text)
    except ValueError as error:
        raise ValidationError(str(error)) from error


def _anchors(text: str) -> None:
    try:
        parse_anchors(text)
    except ValueError as error:
        raise ValidationError(f"Must be a JSON list of anchors: {error}.") from error


def _prefix(text: str) -> None:
    if not re.fullmatch(r"[a-z0-9_-]{1,40}", text):
        raise ValidationError("Must be 1 to 40 lower-case letters, digits, dashes or underscores.")


def _between(low: int, high: int) -> Callable[[int], None]:
    def validate(value: int) -> None:
        if not low <= value <= high:
            raise ValidationError(f"Must be a whole number from {low} to {high}.")

    return validate


_VALIDATORS: dict[str, Callable[[Any], None]] = {
    "DATABASE_URL": _url_of("postgres", "postgresql"),
    "REDIS_URL": _url_of("redis", "rediss", "unix"),
    "BLOB_URL": _blob_location,
    "QFLARE_BLOB_ACCEL": _internal_path,
    "QFLARE_KEK_PROVIDER": _kek_provider,
    "QFLARE_PKCS11_KEY": _kek_label,
    "QFLARE_TRUSTED_PROXIES": _networks,
    "QFLARE_QKD_KME_URL": _url_of("https"),
    "QFLARE_SMTP_URL": _url_of("smtp", "smtps"),
    "QFLARE_LOG_LEVEL": _log_level,
    "QFLARE_SUITES": _suites,
    "QFLARE_DEFAULT_SUITE": _suite,
    "QFLARE_PQC_ENGINES": _engines,
    "QFLARE_ANCHORS": _anchors,
    "QFLARE_REDIS_PREFIX": _prefix,
    "QFLARE_SESSION_REQUESTS": _between(1, 64),
    "QFLARE_SESSION_BYTES": _between(4096, 256 * 1024 * 1024),
    "QFLARE_SESSION_EPOCHS": _between(1, 3),
    "QFLARE_SESSION_SECONDS": _between(1, 3600),
    "QFLARE_DEVICE_KEY_DAYS": _between(1, 3650),
    "QFLARE_DEVICE_KEY_SESSIONS": _between(2, 10**9),
    "QFLARE_KEY_OVERLAP_SECONDS": _between(0, 30 * 86_400),
    "QFLARE_ASKS_PER_SECOND": _between(1, 1_000_000),
    "QFLARE_LEASE_SECONDS": _between(2, 3600),
    "QFLARE_ENCLAVE_ABSENT_SECONDS": _between(60, 30 * 86_400),
    "QFLARE_MAX_UPDATE_BYTES": _between(4096, 1 << 36),
    "QFLARE_UPLOAD_PIECE_BYTES": _between(4096, 64 * 1024 * 1024),
    "QFLARE_EVALUATION_SECONDS": _between(1, 86_400),
    "QFLARE_ENCLAVE_REQUEST_SECONDS": _between(10, 7 * 86_400),
    "QFLARE_RETENTION_SESSION_DAYS": _between(1, 3650),  # a replayed M1 has to be known for a while
    "QFLARE_RETENTION_DISCLOSURE_DAYS": _between(0, 36_500),
    "QFLARE_METRICS_PORT": _between(0, 65_535),
    "QFLARE_FRESH_SIGN_IN_SECONDS": _between(0, 86_400),
    "QFLARE_OTLP_ENDPOINT": _url_of("http", "https"),
    "QFLARE_SECOND_PERSON": _second_person,
    "QFLARE_ENCLAVE_ATTESTER": _attester,
    "QFLARE_ENCLAVE_PLATFORMS": _platforms,
    "QFLARE_ENCLAVE_UID": _between(1, 2**31 - 1),
    "QFLARE_ENCLAVE_GID": _between(1, 2**31 - 1),
    **{name: _rate for name in DEFAULTS if name.startswith("QFLARE_RATE_")},
}
