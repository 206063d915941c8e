"""`manage.py escrow_custodian`: what a custodian does, on a machine of their own and without a database."""

import os
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from keyring.custodians import MAX_FILE_BYTES, make_custodian_key, open_share, read_custodian
from keyring.shares import EscrowError


class Command(BaseCommand):
    """Make a custodian's key pair, or open the share that was sealed to it."""

    help = "Makes an escrow custodian's key, or opens a sealed share with it. Needs no database."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the two verbs."""
        verbs = parser.add_subparsers(dest="verb", required=True)
        keygen = verbs.add_parser("keygen", help="make a key pair")
        keygen.add_argument(
            "--out", required=True, type=Path, help="file of the private key; .pub is added for the other"
        )
        opening = verbs.add_parser("open", help="open a sealed share and print it")
        opening.add_argument("share", type=Path, help="file of the sealed share")
        opening.add_argument("--key", required=True, type=Path, help="file of the private key")
        opening.add_argument("--out", type=Path, help="write the opened share into this file instead")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do what the verb says."""
        try:
            if options["verb"] == "keygen":
                self._make_key(options["out"])
            else:
                self._open(options["share"], options["key"], options["out"])
        except EscrowError as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}.") from error

    def _make_key(self, path: Path) -> None:
        private, public = make_custodian_key()
        public_path = path.with_name(f"{path.name}.pub")
        write_private(path, private)
        write_private(public_path, public, mode=0o644)
        fingerprint = read_custodian("custodian", public).fingerprint.hex()
        self.stdout.write(f"Keep {path}; hand over {public_path}. Fingerprint, to be compared by voice:\n{fingerprint}")

    def _open(self, share: Path, key: Path, out: Path | None) -> None:
        opened = open_share(read_small(share), read_small(key))
        if out is None:
            self.stdout.write(opened.to_text())
        else:
            write_private(out, opened.to_text() + "\n")
            self.stdout.write(f"Opened into {out}; destroy it when the escrow is recovered.")


def read_small(path: Path) -> str:
    """Read a text file. Raises `EscrowError` for one that is too large or not text, `OSError`."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES or not data.isascii():
        raise EscrowError(f"{path} is not a file of an escrow.")
    return data.decode("ascii")


def write_private(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write a new file and let it reach the disk; one that exists is never replaced. Raises `OSError`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
