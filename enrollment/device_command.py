"""The command by which a device uses its token."""

import shlex

from enrollment.services import IssuedToken
from qflare_protocol.suites import DEFAULT_SUITE


def device_command(issued: IssuedToken, server: str) -> str:
    """Return the shell command to run on the device; `server` is the address at which the device reaches this site."""
    words = ["qflare-edge", "enroll", "--server", server, "--token", issued.text]
    if issued.row.device_name:
        words += ["--name", issued.row.device_name]
    if issued.row.suite != DEFAULT_SUITE:
        words += ["--suite", issued.row.suite]
    return shlex.join(words)
