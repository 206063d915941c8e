"""What waits in each queue of the broker: how many messages, of either profile, and which is next."""

from collections import Counter
from pathlib import Path
from typing import Any

from django.conf import settings
from redis import Redis

QUEUES = ("default", "audit", "enclave")


def waiting_messages() -> dict[str, int]:
    """Return the number of messages that no worker has taken yet, by queue. Raises `RedisError`, `OSError`."""
    return _in_folder(settings.QFLARE_BROKER_DIR / "messages") if settings.EMBEDDED else _in_redis()


def next_in_redis() -> dict[str, bytes]:
    """Return the message that is taken next of each queue that has one. Raises `RedisError`."""
    ends = _of_every_queue("lindex", -1)
    return {queue: message for queue, message in ends.items() if message is not None}


def _in_folder(folder: Path) -> dict[str, int]:
    """Messages are files named `<time>_<id>.<queue>.msg`; what is being written or taken begins with a dot."""
    waiting = Counter(
        path.name.split(".")[1] for path in (folder.iterdir() if folder.exists() else ()) if path.name[0] != "."
    )
    return {queue: waiting[queue] for queue in QUEUES}


def _in_redis() -> dict[str, int]:
    return _of_every_queue("llen")


def _of_every_queue(command: str, *arguments: int) -> dict[str, Any]:
    prefix = settings.CELERY_BROKER_TRANSPORT_OPTIONS["global_keyprefix"]
    client = Redis.from_url(settings.CELERY_BROKER_URL, socket_connect_timeout=1, socket_timeout=1)
    try:
        pipeline = client.pipeline(transaction=False)
        for queue in QUEUES:
            getattr(pipeline, command)(f"{prefix}{queue}", *arguments)
        return dict(zip(QUEUES, pipeline.execute(), strict=True))
    finally:
        client.close()
