"""A device's numbers for Prometheus over HTTP, when asked for; needs the extra `qflare-edge[metrics]`."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from edge_client.measured import COUNTERS, GAUGES

if TYPE_CHECKING:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

log = structlog.get_logger(__name__)

LARGEST_PORT = 65_535


class MetricsUnavailable(Exception):  # noqa: N818 - it says what happened
    """The numbers cannot be served: the extra is not installed, or the address is not to be had."""


def add_metrics_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the flags of `metrics_served`."""
    group = command.add_argument_group("metrics", "what this process counts, for Prometheus, to whoever asks")
    group.add_argument("--metrics-port", type=_port, metavar="PORT", help="serve them here; without it nowhere")
    group.add_argument(
        "--metrics-host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default: %(default)s)"
    )


class DeviceCollector:
    """Gives `edge_client.measured` in Prometheus' families."""

    def collect(self) -> "Iterator[CounterMetricFamily | GaugeMetricFamily]":
        """Yield each measure with all its values."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for family_of, measures in ((CounterMetricFamily, COUNTERS), (GaugeMetricFamily, GAUGES)):
            for measure in measures:
                family = family_of(measure.name, measure.sentence, labels=[measure.label] if measure.label else [])
                for value, number in measure.numbers():
                    family.add_metric([value] if measure.label else [], number)
                yield family


@contextmanager
def metrics_served(port: int | None, host: str) -> Iterator[None]:
    """Serve the numbers while the block runs; nothing without a port. Raises `MetricsUnavailable`."""
    if port is None:
        yield
        return
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError as error:
        raise MetricsUnavailable("--metrics-port needs prometheus-client: install qflare-edge[metrics].") from error
    registry = CollectorRegistry()
    registry.register(DeviceCollector())
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise MetricsUnavailable(f"The metrics cannot be served at {host}:{port}: {error.strerror}.") from error
    log.info("metrics_served", host=host, port=server.server_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= LARGEST_PORT:
        raise argparse.ArgumentTypeError(f"a port is a whole number up to {LARGEST_PORT}; 0 takes a free one")
    return port
