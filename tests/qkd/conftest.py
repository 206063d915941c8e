"""A simulator of two KMEs over real TLS, with the SAEs of the server, of alice and of mallory, a stranger."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from qflare_protocol.qkd import KmeClient
from qflare_site.demo.kme_certificates import SimulatorFiles, make_certificates
from qflare_site.demo.kme_keys import LinkLimits, SimulatedLink
from qflare_site.demo.kme_simulator import KmeSimulator

SERVER, ALICE, BOB, MALLORY = "qflare-server", "sae-alice", "sae-bob", "sae-mallory"
LIMITS = LinkLimits(max_key_count=20, max_key_per_request=16)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> SimulatorFiles:
    """The simulator's certificates."""
    return make_certificates(tmp_path_factory.mktemp("kme"), [SERVER, ALICE, BOB, MALLORY], now=datetime.now(UTC))


@pytest.fixture
def clock() -> Clock:
    """The simulator's clock."""
    return Clock()


@pytest.fixture
def simulator(files: SimulatorFiles, clock: Clock) -> Iterator[KmeSimulator]:
    """A running simulator to which mallory is not attached."""
    link = SimulatedLink(LIMITS, clock)
    with KmeSimulator(files, server_saes=[SERVER], device_saes=[ALICE, BOB], link=link) as running:
        yield running


def client_of(files: SimulatorFiles, sae_id: str, url: str, *, ca: Path | None = None, **options: Any) -> KmeClient:
    """Return the client of an SAE."""
    return KmeClient(url, files.certificate(sae_id), files.private_key(sae_id), ca or files.ca, **options)


@pytest.fixture
def server(files: SimulatorFiles, simulator: KmeSimulator) -> KmeClient:
    """The server's way to its KME."""
    return client_of(files, SERVER, simulator.server_url)


@pytest.fixture
def alice(files: SimulatorFiles, simulator: KmeSimulator) -> KmeClient:
    """Alice's way to hers."""
    return client_of(files, ALICE, simulator.device_url)
