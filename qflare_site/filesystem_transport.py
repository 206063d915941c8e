"""The embedded broker: kombu's filesystem transport, with every file appearing and vanishing as a whole.

kombu writes a message under its final name, so a reader can meet an empty file and a worker can die
of it. Here a message is written under a name that no reader looks at and then renamed.
"""

import fcntl
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import filesystem, virtual
from kombu.transport.filesystem import exchange_queue_t
from kombu.utils.json import dumps, loads

Bindings = list[exchange_queue_t]


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears under its name complete or not at all."""
    draft = path.with_name(f".{uuid.uuid4().hex}.draft")
    draft.write_text(text)
    draft.replace(path)


class Channel(filesystem.Channel):
    """A channel over two folders: one of messages, one of exchange tables."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for folder in (self._messages, Path(self.control_folder)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def _messages(self) -> Path:
        return Path(self.data_folder_in)

    def _put(self, queue: str, payload: dict[str, Any], **_kwargs: Any) -> None:
        # Nanoseconds of the wall clock keep the order of arrival over a reboot, which a monotonic clock does not.
        name = f"{time.time_ns():020d}_{uuid.uuid4()}.{queue}.msg"
        write_whole(self._messages / name, dumps(payload))

    def _get(self, queue: str) -> Any:
        waiting = (path for path in self._messages.iterdir() if path.name.partition(".")[2] == f"{queue}.msg")
        for message in sorted(waiting):
            text = _take(message)
            if text is not None:
                return loads(text)
        raise Empty

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        binding = exchange_queue_t(routing_key or "", pattern or "", queue or "")
        self._change_bindings(exchange, lambda bindings: [binding, *(b for b in bindings if b != binding)])

    def _delete(self, queue: str, exchange: str, routing_key: str, pattern: str, *_args: Any, **_kwargs: Any) -> None:
        self._purge(queue)
        binding = exchange_queue_t(routing_key or "", pattern or "", queue or "")
        self._change_bindings(exchange, lambda bindings: [b for b in bindings if b != binding])

    def _change_bindings(self, exchange: str, change: Callable[[Bindings], Bindings]) -> None:
        table = self._exchange_file(exchange)
        with _locked(table.with_name(f".{table.name}.lock")):
            before = self.get_table(exchange)
            after = change(before)
            if after != before:
                write_whole(table, dumps(after))


def _take(message: Path) -> str | None:
    """Take a message out of the queue and return its text, or None when another reader was faster."""
    taken = message.with_name(f".{message.name}.taken")
    try:
        message.rename(taken)
    except FileNotFoundError:
        return None
    text = taken.read_text()
    taken.unlink()
    return text


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Transport(filesystem.Transport):
    """The transport that Celery finds under the scheme `atomic-filesystem://`."""

    Channel = Channel

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        # kombu shares what it knows about bindings in the whole process, also between folders: a second folder
        # would then get no exchange table, and its messages would vanish.
        self.state = virtual.BrokerState()
