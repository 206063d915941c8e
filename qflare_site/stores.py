"""The settings of the stores of either profile: database, caches and broker; and of the mail server."""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from training.blob_store.location import parse_location


def blob_folder(url: str, *, default: Path) -> Path:
    """Return the folder that a BLOB_URL names; `default` where it is empty or names a bucket."""
    location = parse_location(url) if url else default
    return location if isinstance(location, Path) else default


def sqlite_database(file: Path) -> dict[str, Any]:
    """Return the embedded database: WAL so that readers do not block, FULL so that a commit survives power loss.

    Transactions begin IMMEDIATE: a transaction that reads first and writes later would otherwise fail
    with "database is locked" instead of waiting for its turn.
    """
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": file,
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA secure_delete=ON;",
        },
    }


def postgres_database(url: str) -> dict[str, Any]:
    """Return the database of a `postgres://user:password@host:port/name?option=value` URL."""
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(parts.hostname or ""),
        "PORT": str(parts.port or ""),
        # Of statements that the server binds (`devices.prepared_statements`); Django's own it never prepares.
        "OPTIONS": {"prepare_threshold": 1, **dict(parse_qsl(parts.query))},
        "CONN_MAX_AGE": 600,
        "CONN_HEALTH_CHECKS": True,
    }


def embedded_caches(counter_file: Path) -> dict[str, Any]:
    """Return the caches of one host: process memory, and rate-limit counters that its processes share."""
    return {
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        "ratelimit": {"BACKEND": "qflare_site.ratelimit_cache.CounterCache", "LOCATION": str(counter_file)},
    }


def redis_caches(url: str, prefix: str) -> dict[str, Any]:
    """Return the caches in Redis. Values are JSON: whoever can write there must not run code here."""
    options = {
        "SERIALIZER": "django_redis.serializers.json.JSONSerializer",
        "SOCKET_CONNECT_TIMEOUT": 1,
        "SOCKET_TIMEOUT": 1,
    }
    cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url, "OPTIONS": options}
    counters = {**cache, "BACKEND": "qflare_site.redis_counters.RedisCounterCache", "KEY_PREFIX": f"{prefix}-rate"}
    return {"default": {**cache, "KEY_PREFIX": prefix}, "ratelimit": counters}


def filesystem_broker_options(folder: Path) -> dict[str, Any]:
    """Return the transport options of the embedded broker, which keeps its messages in `folder`."""
    return {
        "data_folder_in": str(folder / "messages"),
        "data_folder_out": str(folder / "messages"),
        "control_folder": str(folder / "exchanges"),
        "polling_interval": 0.1,
    }


def redis_broker_options(prefix: str) -> dict[str, Any]:
    """Return the transport options of the Redis broker; the prefix keeps several sites in one Redis apart."""
    return {"global_keyprefix": f"{prefix}-broker:", "socket_connect_timeout": 2, "socket_timeout": 30}


def smtp_settings(url: str) -> dict[str, Any]:
    """Return what Django is told of the mail server `smtps://user:password@host:port`; `smtp://` begins with STARTTLS.

    A password never leaves without TLS; a server on this host that asks for none is spoken to in the clear.
    """
    parts = urlsplit(url)
    implicit, host = parts.scheme == "smtps", parts.hostname or "localhost"
    local = host in ("localhost", "127.0.0.1", "::1") and parts.username is None
    return {
        "backend": "django.core.mail.backends.smtp.EmailBackend" if url else "qflare_site.no_mail_server.EmailBackend",
        "host": host,
        "port": parts.port or (465 if implicit else 587),
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "tls": implicit,
        "starttls": not implicit and not local,
    }
