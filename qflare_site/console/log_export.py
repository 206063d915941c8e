"""The log as a file to take away: what `manage.py audit_export` writes, in one archive."""

import tarfile
import tempfile
from pathlib import Path
from typing import IO

from django.contrib import messages
from django.http import FileResponse, HttpRequest, HttpResponseBase
from django.shortcuts import redirect

from audit.export import export_log
from audit.models import Checkpoint
from audit.services import current_checkpoint, record_export
from operator_admin.operations import actor_of
from qflare_site.console.pages import console_page

MOST_ENTRIES = 100_000
"""A web process is busy for some seconds with these; a longer log is exported by the command."""

FOLDER = "qflare-log"


@console_page("audit.change_entry", methods=("POST",))
def export(request: HttpRequest) -> HttpResponseBase:
    """Answer `/log-entries/export`: the log up to its newest checkpoint, to check with `qflare-verify`."""
    head = current_checkpoint()
    if head is None or head.size > MOST_ENTRIES:
        messages.error(request, "The log is empty." if head is None else _TOO_LONG)
        return redirect("console:log-entries")
    archive = archived(head)
    record_export(entries=head.size, actor=actor_of(request))
    return FileResponse(archive, as_attachment=True, filename=f"{FOLDER}-{head.size}.tar.gz")


_TOO_LONG = f"The log has more than {MOST_ENTRIES} entries: export it on the server with manage.py audit_export DIR."


def archived(head: Checkpoint) -> IO[bytes]:
    """Return the export of the log as a checkpoint covers it, packed, in a temporary file without a name."""
    archive = tempfile.TemporaryFile()  # noqa: SIM115 - the answer closes it
    with tempfile.TemporaryDirectory() as place, tarfile.open(fileobj=archive, mode="w:gz") as packed:
        folder = Path(place, FOLDER)
        export_log(head, folder)
        packed.add(folder, arcname=FOLDER)
    archive.seek(0)
    return archive
