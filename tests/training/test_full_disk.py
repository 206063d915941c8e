"""A full disk: a refusal with `Retry-After`, nothing left behind; the round goes on by itself when there is room."""

import errno
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import pytest
from django.utils import timezone

from audit.models import Event
from qflare_protocol.tensors import encode_tensors
from tests.open_rounds import SEALED, Submission, make_federation
from tests.people import Person, assert_refused, nothing_changed
from tests.training.whole_rounds import collected
from training.blobs import blob_path
from training.models import Federation, Round, RoundState, Update, Upload
from training.services import steps
from training.services.leases import postpone
from training.storage_room import is_out_of_room, require_room

pytestmark = pytest.mark.django_db

ROOM_BYTES = 4 << 20


@pytest.fixture
def small_disk(tmp_path: Path, settings: Any) -> Iterator[Path]:
    """Keep blobs on a file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = f"size={ROOM_BYTES}"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "qflare-test", folder], check=False)  # noqa: S603, S607
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    settings.QFLARE_BLOB_DIR = folder
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # noqa: S603, S607


def fill(folder: Path) -> Callable[[], None]:
    """Fill the disk to its last byte; return what makes room again."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return ballast.unlink


def files_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_an_update_for_which_there_is_no_room_is_refused_for_now(running, alice, small_disk):
    line, submission = alice.line(), Submission(running, alice)
    make_room = fill(small_disk)
    before = files_in(small_disk)
    with nothing_changed():
        answer = submission.hand_in(line)
        assert assert_refused(answer, "service-unavailable")["retry_after_seconds"] == 5
    assert files_in(small_disk) == before
    make_room()
    assert "receipt" in submission.hand_in(line).message
    assert Update.objects.count() == 1
    assert blob_path(blake3.blake3(SEALED).hexdigest()).read_bytes() == SEALED


def test_a_piece_for_which_there_is_no_room_is_refused_and_goes_on_where_it_was(running, alice, small_disk):
    line, manifest = alice.line(), Submission(running, alice).manifest()
    begun = line.ask("/api/uploads", {"manifest": manifest}).message

    def send(offset: int, piece: bytes) -> Any:
        path = f"/api/uploads/{begun['upload_id'].hex()}?offset={offset}"
        return line.ask(path, method="PATCH", body=piece, content_type="application/vnd.qflare.update-piece")

    make_room = fill(small_disk)
    for _ in range(2):
        assert_refused(send(0, SEALED), "service-unavailable")
        assert Upload.objects.get().offset_bytes == 0
        assert not Update.objects.exists()
    assert line.ask("/api/uploads", {"manifest": manifest}).message["offset"] == 0
    make_room()
    assert send(0, SEALED[:10]).message == {"offset": 10}
    assert "receipt" in send(10, SEALED[10:]).message


@pytest.mark.timeout(120)
def test_a_round_waits_until_there_is_room_and_loses_no_attempt(
    fleet: list[Person], small_disk: Path, destroyed_round_keys: None
):
    federation: Federation = make_federation()
    changes = [encode_tensors({"w": np.full((4, 3), number, np.float32)}) for number in (1, 2, 3, 2)]
    round_ = collected(federation, fleet, changes)
    make_room = fill(small_disk)
    for wait in range(steps.MAX_ATTEMPTS + 2):
        assert not steps.aggregate_round(round_.id, now=timezone.now() + timedelta(hours=wait))
        round_.refresh_from_db()
        assert (round_.state, round_.attempts) == (RoundState.AGGREGATING, 0)
    assert round_.lease_expires_at is not None, "it would be tried again each second"
    make_room()
    assert steps.aggregate_round(round_.id, now=timezone.now() + timedelta(days=1))
    round_.refresh_from_db()
    assert (round_.state, round_.submissions) == (RoundState.COMPLETED, 4)
    assert Event.objects.filter(kind="round.completed").count() == 1


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EROFS, True), (errno.EACCES, False)]
)
def test_only_a_full_store_counts_as_one(number, said):
    assert is_out_of_room(OSError(number, "x")) == said


def test_another_failure_of_a_step_is_not_waited_out(running):
    with nothing_changed(), pytest.raises(PermissionError):
        postpone(Round.objects.filter(id=running.id), PermissionError(errno.EACCES, "not ours"))


def test_room_is_asked_for_where_there_is_a_folder(tmp_path):
    require_room(tmp_path, 1)
    require_room(tmp_path / "none", 1 << 60)
    with pytest.raises(OSError, match="No space left") as full:
        require_room(tmp_path, 1 << 60)
    assert is_out_of_room(full.value)
