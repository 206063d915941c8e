"""How a process that was started ahead of its round is given it: its command line and the open files of its blobs.

It has imported everything and warmed up, holds no key and has seen nothing of any round; whoever gives it one is
who would have started it. From here on it goes the way of one that was started for its round.
"""

import fcntl
import os
import resource
import socket
from collections.abc import Sequence

from qflare_protocol.encoding import decode, encode
from qflare_protocol.fields import short_text

MAX_PASSED_DESCRIPTORS = 250
"""The kernel passes 253 at once (`SCM_MAX_FD`)."""
MAX_TASK_BYTES = 1 << 14
MAX_ARGUMENT = 4096
_LENGTH_BYTES = 4


def give_task(channel: socket.socket, arguments: Sequence[str], descriptors: Sequence[int]) -> None:
    """Send a waiting process its command line, and open files that it finds under these numbers. Raises `OSError`."""
    body = encode([list(arguments), list(descriptors)])
    socket.send_fds(channel, [len(body).to_bytes(_LENGTH_BYTES, "big") + body], descriptors)


def await_task(channel: int) -> tuple[list[str], int] | None:
    """Wait on the channel's descriptor for a task; return its command line and the channel's number from then on.

    The files that come with it are open under the numbers that it names. None where nobody is left to give a task.
    """
    with socket.socket(fileno=os.dup(channel)) as giver:
        data, received, *_ = socket.recv_fds(giver, MAX_TASK_BYTES, MAX_PASSED_DESCRIPTORS)
        while data and len(data) < _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big"):
            piece = giver.recv(MAX_TASK_BYTES)
            if not piece:
                return None
            data += piece
    if not data:
        return None
    arguments, numbers = decode(data[_LENGTH_BYTES:], what="task", maximum_bytes=MAX_TASK_BYTES)
    moved = _move(channel, received, numbers)
    return [short_text(argument, MAX_ARGUMENT, what="argument") for argument in arguments], moved


def _move(channel: int, received: Sequence[int], numbers: Sequence[int]) -> int:
    """Give open files these numbers, which others of them or the channel may have; return the channel's number."""
    above = max((channel, *received, *numbers)) + 1
    _allow_descriptors(above + 1 + len(received))
    moved, *aside = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, above) for one in (channel, *received)]
    for descriptor in (channel, *received):
        os.close(descriptor)
    for descriptor, number in zip(aside, numbers, strict=True):
        os.dup2(descriptor, number, inheritable=False)
        os.close(descriptor)
    return moved


def _allow_descriptors(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
