"""Logs as one JSON object a line on standard error, with secrets struck out."""

import re
from collections.abc import MutableMapping
from typing import Any

import structlog

_SECRET_NAME = re.compile(
    r"token|secret|password|passphrase|private|authorization|cookie|api_?key|(^|_)pin($|_)", re.IGNORECASE
)
_URL_PASSWORD = re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]+@")
STRUCK_OUT = "[struck out]"

EventDict = MutableMapping[str, Any]


def strike_out_secrets(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Replace values whose name says that they are secret, and passwords inside URLs."""
    for name, value in event.items():
        if _SECRET_NAME.search(name):
            event[name] = STRUCK_OUT
        elif isinstance(value, str):
            event[name] = _URL_PASSWORD.sub(rf"\1:{STRUCK_OUT}@", value)
    return event


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
