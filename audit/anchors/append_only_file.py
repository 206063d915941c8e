"""An anchor that appends notes to a file, best on storage that refuses everything but appending.

`chattr +a` on Linux, or a mount of another host that keeps versions, makes the file more than a second copy.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from audit.anchors.interface import AnchorError


@dataclass(frozen=True)
class AppendOnlyFile:
    """Appends each note to `path`; the receipt says at which byte it stands."""

    path: Path

    def publish(self, note: str) -> bytes:
        """Append the note durably. Raises `AnchorError`."""
        data = note.encode()
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
            try:
                if os.write(descriptor, data) != len(data):
                    raise AnchorError(f"{self.path} took a part of the note only.")
                os.fsync(descriptor)
                end = os.lseek(descriptor, 0, os.SEEK_CUR)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise AnchorError(f"{self.path} cannot be appended to: {error.strerror}.") from error
        return json.dumps({"offset": end - len(data), "length": len(data)}).encode()

    def verify(self, receipt: bytes, note: str) -> None:
        """Read the note back at its place. Raises `AnchorError`."""
        try:
            place = json.loads(receipt)
            with self.path.open("rb") as file:
                file.seek(place["offset"])
                found = file.read(place["length"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AnchorError(f"{self.path} cannot be read back: {error}.") from error
        if found != note.encode():
            raise AnchorError(f"{self.path} holds something else where the note was appended.")
