"""Logs as one JSON object a line on standard error, with secrets struck out."""

import re
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

_SECRET_NAME = re.compile(
    r"token(?!_id)|secret|password|passphrase|mnemonic|private|authorization|cookie|api_?key|(^|_)pin($|_)"
    r"|(?<!public_)key$",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"(?<=://)([^/\s:@\"]*):[^/\s@\"]+@")
# What our own secrets look like, wherever they stand: keys of the operator API, enrolment tokens, webhook secrets.
_SECRET_VALUE = re.compile(
    r"\bqfk_[\w-]{16,}|\bQF1\.[\w-]{16,}\.[\w-]{16,}|\bwhsec_[\w+/=-]{16,}"
    r"|(?<=\bBearer )[\w.~+/=-]{8,}|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    re.DOTALL,
)
STRUCK_OUT = "[struck out]"

EventDict = MutableMapping[str, Any]


def strike_out_secrets(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Replace values whose name says that they are secret, however deep, and what looks like a secret in texts."""
    for name, value in event.items():
        event[name] = _without_secrets(str(name), value)
    return event


def strike_out_of_line(_logger: Any, _method: str, line: str) -> str:
    """Replace what looks like a secret in a line that is written already: of objects that only show what they are."""
    return _shown(line)


def _shown(text: str) -> str:
    return _SECRET_VALUE.sub(STRUCK_OUT, _URL_PASSWORD.sub(rf"\1:{STRUCK_OUT}@", text))


def _without_secrets(name: str, value: Any) -> Any:
    if _SECRET_NAME.search(name):
        return STRUCK_OUT
    if isinstance(value, str):
        return _shown(value)
    if isinstance(value, Mapping):
        return {inner: _without_secrets(str(inner), held) for inner, held in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(name, held) for held in value]
    return value


def logging_config(level: str) -> dict[str, Any]:
    """Return the `logging.config.dictConfig` dictionary; the standard loggers and structlog write alike."""
    shared = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        strike_out_secrets,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    return _dict_config(level, shared)


def _dict_config(level: str, foreign_chain: list[Any]) -> dict[str, Any]:
    processors = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.JSONRenderer(),
        strike_out_of_line,
    ]
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "processors": processors,
        "foreign_pre_chain": foreign_chain,
    }
    handler = {"class": "logging.StreamHandler", "formatter": "json"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": formatter},
        "handlers": {"stderr": handler},
        "root": {"handlers": ["stderr"], "level": level},
        # Django attaches handlers of its own to these two; one line per event is enough.
        # httpx writes every URL it asks, and a webhook's may be a secret.
        "loggers": {name: {"handlers": [], "propagate": True} for name in ("django", "django.server")}
        | {"httpx": {"level": "WARNING"}},
    }
