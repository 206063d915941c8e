"""`python -m enclave.core`: one sealed process for one request of one round.

One that is started as `wait` warms up ahead and is given the rest of its command line over its channel.

Order: import and warm up, measure, open what is needed of the host directory, seal, and only then
listen and make keys.
"""

import argparse
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from enclave.core import kernel
from enclave.core.attesters.choice import ATTESTERS, open_attester
from enclave.core.attesters.interface import Attester
from enclave.core.channel import Channel, ChannelClosed
from enclave.core.host import DecisionRecord, HostDirectory, acting_as
from enclave.core.measurement import measure
from enclave.core.sealing import SealingPlan, seal_process
from enclave.core.service import EnclaveState, refused, serve
from enclave.core.waiting import await_task
from enclave.core.warmup import warm_up
from qflare_protocol.errors import Refusal
from qflare_protocol.ranges import MAX_RANGES

EXIT_UNEXPECTED = 70  # EX_SOFTWARE of sysexits.h


@dataclass(frozen=True)
class _HostGives:
    """What the process takes from the host directory before it seals itself."""

    sealing_key: bytes = field(repr=False)
    federation_key: bytes | None = field(default=None, repr=False)
    attester: Attester | None = None
    decision: int | None = None

    @property
    def descriptors(self) -> frozenset[int]:
        """The open descriptors among it."""
        decision = frozenset() if self.decision is None else frozenset({self.decision})
        return decision | (self.attester.descriptors if self.attester else frozenset())


def main(arguments: list[str]) -> None:
    """Run the process to its end; see `_arguments` for the command line."""
    if arguments[0] == "wait":
        warm_up()
        measure()  # now, and kept: a release that is installed during the wait is not what runs here
        given = await_task(_waiting_at(arguments[1:]))
        if given is None:
            return
        task, channel_fd = given
        options = _arguments([*task, "--channel-fd", str(channel_fd)])
    else:
        options = _arguments(arguments)
        warm_up()
    kernel.name_process(f"sealed {options.mode}")
    channel = Channel.over_descriptor(options.channel_fd)
    try:
        state = _sealed_state(options)
    except Refusal as refusal:  # the platform or a secret of the host is absent: say which
        channel.send(refused(refusal))
        return
    _report_failures_to(channel)
    serve(channel, state)


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m enclave.core", description=__doc__)
    parser.add_argument("mode", choices=("prepare", "aggregate", "probe"))
    parser.add_argument("--channel-fd", type=int, required=True)
    parser.add_argument("--host-directory", type=Path, required=True)
    parser.add_argument("--round", type=bytes.fromhex, required=True)
    parser.add_argument("--federation", type=bytes.fromhex, required=True)
    parser.add_argument("--range", type=int, choices=range(MAX_RANGES))
    parser.add_argument("--blob-fds", type=_descriptors, action="extend", default=[])
    parser.add_argument("--uid", type=int, required=True)
    parser.add_argument("--gid", type=int, required=True)
    parser.add_argument("--memory-bytes", type=int, required=True)
    parser.add_argument("--cpu-seconds", type=int, required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    parser.add_argument("--attester", choices=ATTESTERS, required=True)
    return parser.parse_args(arguments)


def _waiting_at(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m enclave.core wait")
    parser.add_argument("--channel-fd", type=int, required=True)
    return int(parser.parse_args(arguments).channel_fd)


def _descriptors(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _sealed_state(options: argparse.Namespace) -> EnclaveState:
    measurement = measure()
    given = _what_the_host_gives(options)
    protections = seal_process(
        SealingPlan(
            uid=options.uid,
            gid=options.gid,
            memory_bytes=options.memory_bytes,
            cpu_seconds=options.cpu_seconds,
            keep_descriptors=frozenset({options.channel_fd, *options.blob_fds}) | given.descriptors,
            parent_pid=options.parent_pid,
            ioctl_request=given.attester.ioctl_request if given.attester else None,
        )
    )
    return EnclaveState(
        measurement,
        protections,
        options.memory_bytes,
        given.sealing_key,
        given.federation_key,
        given.attester,
        DecisionRecord(given.decision) if given.decision is not None else None,
        frozenset(options.blob_fds),
        options.range,
    )


def _what_the_host_gives(options: argparse.Namespace) -> _HostGives:
    """Return what the mode needs of the host directory; a probe needs nothing."""
    if options.mode == "probe":
        return _HostGives(b"")
    with HostDirectory(options.host_directory) as host:
        if options.mode == "prepare":
            attester = open_attester(options.attester, host, options.uid, options.gid)
            with acting_as(options.uid, options.gid):
                return _HostGives(host.create_sealing_key(options.round), attester=attester)
        with acting_as(options.uid, options.gid):
            return _HostGives(
                host.sealing_key(options.round),
                federation_key=host.federation_key(options.federation),
                decision=host.open_decision(options.round, options.range),
            )


def _report_failures_to(channel: Channel) -> None:
    """Send an unexpected exception's type and place to the courier, never its message: that could hold data."""

    def report(kind: type[BaseException], _: BaseException, traceback: TracebackType | None) -> None:
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        place = f"{traceback.tb_frame.f_code.co_name}:{traceback.tb_lineno}" if traceback else "unknown place"
        try:
            if kind is not ChannelClosed:
                channel.send({"kind": "failed", "where": f"{kind.__name__} in {place}"})
        finally:  # a courier that has gone cannot be told; the interpreter would go on to write the message itself
            os._exit(EXIT_UNEXPECTED)

    sys.excepthook = report


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # the interpreter's own shutdown would reach for what is sealed off
