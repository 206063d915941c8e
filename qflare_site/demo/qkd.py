"""The demo's quantum key distribution, SIMULATED: two KMEs of this process, and how both sides are pointed at them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings
from django.utils import timezone

from qflare_protocol.qkd import QkdUse
from qflare_site.demo.kme_certificates import SimulatorFiles, make_certificates
from qflare_site.demo.kme_simulator import KmeSimulator

SERVER_SAE = "qflare-server"
_FOLDER = "kme-simulator"


@contextmanager
def simulated_kmes(folder: Path, device_names: Sequence[str]) -> Iterator[dict[str, str]]:
    """Run the simulator; give the environment in which the server and each device, an SAE of its own, demand QKD."""
    files = make_certificates(folder / _FOLDER, [SERVER_SAE, *device_names], now=timezone.now())
    with KmeSimulator(files, server_saes=[SERVER_SAE], device_saes=device_names) as simulator:
        yield {
            "QFLARE_QKD_KME_URL": simulator.server_url,
            "QFLARE_QKD_SAE_ID": SERVER_SAE,
            "QFLARE_QKD_CERTIFICATE": str(files.certificate(SERVER_SAE)),
            "QFLARE_QKD_PRIVATE_KEY": str(files.private_key(SERVER_SAE)),
            "QFLARE_QKD_CA": str(files.ca),
            "QFLARE_EDGE_QKD": QkdUse.REQUIRED.value,
            "QFLARE_EDGE_QKD_KME": simulator.device_url,
            "QFLARE_EDGE_QKD_CA": str(files.ca),
        }


def sae_environment(device_name: str) -> dict[str, str]:
    """Return what tells a device its SAE, on a stage where `simulated_kmes` runs."""
    files = SimulatorFiles(Path(settings.QFLARE_DATA_DIR) / _FOLDER)
    return {
        "QFLARE_EDGE_QKD_SAE": device_name,
        "QFLARE_EDGE_QKD_CERTIFICATE": str(files.certificate(device_name)),
        "QFLARE_EDGE_QKD_PRIVATE_KEY": str(files.private_key(device_name)),
    }
