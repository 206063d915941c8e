"""Environment variables of the site: one table of defaults, read once, all mistakes reported together."""

import ipaddress
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured
from environs import EnvValidationError, FileAwareEnv, ValidationError

DEFAULTS: dict[str, Any] = {
    # Profile: both URLs or neither.
    "DATABASE_URL": "",
    "REDIS_URL": "",
    "BLOB_URL": "",
    # Where things are kept.
    "QFLARE_DATA_DIR": "var",
    "QFLARE_KEK_FILE": "",
    "QFLARE_ENCLAVE_DIR": "",
    "QFLARE_REDIS_PREFIX": "qflare",
    # Web.
    "DEBUG": False,
    "SECRET_KEY": "",
    "ALLOWED_HOSTS": ["127.0.0.1", "localhost"],
    "CSRF_TRUSTED_ORIGINS": [],
    "QFLARE_INSECURE_HTTP": False,
    "QFLARE_TRUSTED_PROXIES": [],
    "QFLARE_LOG_LEVEL": "INFO",
    # Requests per second, minute, hour or day that one device, token or address may make.
    "QFLARE_RATE_ENROLMENT": "5/m",
    "QFLARE_RATE_CHALLENGE": "30/m",
    "QFLARE_RATE_SUBMISSION": "10/m",
    "QFLARE_RATE_DOWNLOAD": "60/m",
    "QFLARE_RATE_WORK": "120/m",
    "QFLARE_RATE_REFUSAL_EVENTS": "60/m",
    # Sessions and rounds. A key allowance can only be lowered below the protocol's own.
    "QFLARE_SESSION_REQUESTS": 64,
    "QFLARE_SESSION_SECONDS": 3600,
    "QFLARE_LEASE_SECONDS": 30,
    "QFLARE_MAX_UPDATE_BYTES": 255 * 1024 * 1024,
    "QFLARE_EVALUATION_SECONDS": 300,
    # The unprivileged user the sealed process runs as, when the enclave worker is root.
    "QFLARE_ENCLAVE_UID": 65534,
    "QFLARE_ENCLAVE_GID": 65534,
}
"""Every variable the site reads, with its default. `NAME_FILE` names a file that holds the value instead."""

_PARSERS: dict[type, str] = {bool: "bool", int: "int", list: "list", str: "str"}
_RATE = re.compile(r"[1-9][0-9]*/[smhd]")
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
    return mistakes


def _report(mistakes: dict[str, list[str]]) -> str:
    lines = [f"  {name}: {' '.join(map(str, sentences))}" for name, sentences in sorted(mistakes.items())]
    return "\n".join(["The environment is not usable:", *lines])


def _url_of(*schemes: str) -> Callable[[str], None]:
    def validate(url: str) -> None:
        if url and urlsplit(url).scheme not in schemes:
            raise ValidationError(f"Must be a URL that begins with {' or '.join(f'{s}://' for s in schemes)}.")

    return validate


def _blob_folder(url: str) -> None:
    if url and not (url.startswith("file:///") or url.startswith("/")):
        raise ValidationError("Must be an absolute folder path or a file:/// URL.")


def _networks(texts: list[str]) -> None:
    for text in texts:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise ValidationError("Must be a comma separated list of addresses or CIDR networks.") from error


def _rate(text: str) -> None:
    if not _RATE.fullmatch(text):
        raise ValidationError("Must be a count and a period, such as 5/m; periods are s, m, h and d.")


def _log_level(text: str) -> None:
    if text not in _LOG_LEVELS:
        raise ValidationError(f"Must be one of {', '.join(_LOG_LEVELS)}.")


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
    "BLOB_URL": _blob_folder,
    "QFLARE_TRUSTED_PROXIES": _networks,
    "QFLARE_LOG_LEVEL": _log_level,
    "QFLARE_REDIS_PREFIX": _prefix,
    "QFLARE_SESSION_REQUESTS": _between(1, 64),
    "QFLARE_SESSION_SECONDS": _between(1, 3600),
    "QFLARE_LEASE_SECONDS": _between(2, 3600),
    "QFLARE_MAX_UPDATE_BYTES": _between(4096, 255 * 1024 * 1024),
    "QFLARE_EVALUATION_SECONDS": _between(1, 86_400),
    "QFLARE_ENCLAVE_UID": _between(1, 2**31 - 1),
    "QFLARE_ENCLAVE_GID": _between(1, 2**31 - 1),
    **{name: _rate for name in DEFAULTS if name.startswith("QFLARE_RATE_")},
}
