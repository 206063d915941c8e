"""Who works in a shell on the server."""

import getpass
import os


def shell_actor() -> str:
    """Return how the audit log names the user of a management command, by uid where the system has no name for it."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid-{os.getuid()}"
    return f"operator:{name}"
