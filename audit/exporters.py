"""What apps add to an export beside the log itself.

An app registers a function in `AppConfig.ready`; it is called once for every export and gives files by
their path in the export's folder.
"""

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

Exporter = Callable[[], Iterator[tuple[PurePosixPath, bytes]]]
"""Gives (path in the export, content) of each file."""

_EXPORTERS: list[Exporter] = []


def register_exporter(exporter: Exporter) -> None:
    """Have a function add its files to every export; one that is registered already is not called twice."""
    if exporter not in _EXPORTERS:
        _EXPORTERS.append(exporter)


def exported_files() -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield the files of all exporters."""
    for exporter in _EXPORTERS:
        yield from exporter()
