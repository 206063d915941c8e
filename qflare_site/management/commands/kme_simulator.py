"""`manage.py kme_simulator`: two simulated KMEs on this machine, for trying QKD out without the hardware."""

import threading
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from qflare_site.demo.kme_certificates import SimulatorFiles, make_certificates
from qflare_site.demo.kme_simulator import KmeSimulator

DEFAULT_SERVER_SAE, DEFAULT_DEVICE_SAE = "qflare-server", "qflare-device"


class Command(BaseCommand):
    """Make certificates, serve both KMEs until Ctrl-C."""

    help = (
        "Runs a SIMULATOR of two linked key management entities (ETSI GS QKD 014) on 127.0.0.1 until Ctrl-C. "
        "No quantum channel is involved; the keys are this machine's random bytes."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--directory", type=Path, required=True, help="folder for the certificates it makes")
        parser.add_argument("--port", type=int, default=8443, help="of the server's KME; the devices' has the next")
        parser.add_argument("--server-sae", default=DEFAULT_SERVER_SAE, help="SAE id of the server")
        parser.add_argument(
            "--device-sae", action="append", metavar="SAE", help="SAE id of a device; may be given several times"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve until Ctrl-C."""
        server_sae, device_saes = options["server_sae"], options["device_sae"] or [DEFAULT_DEVICE_SAE]
        try:
            files = make_certificates(options["directory"], [server_sae, *device_saes], now=timezone.now())
            simulator = KmeSimulator(files, server_saes=[server_sae], device_saes=device_saes, port=options["port"])
        except (OSError, ValueError, OverflowError) as failure:
            raise CommandError(str(failure)) from failure
        with simulator:
            self.stdout.write("\n".join(_directions(simulator, files, server_sae, device_saes)))
            self._wait()
        self.stdout.write("The simulator has ended and its keys are gone.")

    def _wait(self) -> None:
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            self.stdout.write("")


def _directions(simulator: KmeSimulator, files: SimulatorFiles, server_sae: str, device_saes: list[str]) -> list[str]:
    """Return how both sides are pointed at the simulator, ready to paste."""
    files = SimulatorFiles(files.directory.resolve())
    lines = [
        "KME SIMULATOR: for demonstrations and tests only; there is no quantum channel. Ctrl-C ends it.",
        "",
        "The server:",
        f"  export QFLARE_QKD_KME_URL={simulator.server_url} QFLARE_QKD_SAE_ID={server_sae} \\",
        f"    QFLARE_QKD_CERTIFICATE={files.certificate(server_sae)} \\",
        f"    QFLARE_QKD_PRIVATE_KEY={files.private_key(server_sae)} QFLARE_QKD_CA={files.ca}",
    ]
    for sae_id in device_saes:
        lines += [
            "",
            f"Device {sae_id}:",
            f"  qflare-edge run --qkd required --qkd-kme {simulator.device_url} --qkd-sae {sae_id} \\",
            f"    --qkd-certificate {files.certificate(sae_id)} \\",
            f"    --qkd-private-key {files.private_key(sae_id)} --qkd-ca {files.ca} ...",
        ]
    return lines
