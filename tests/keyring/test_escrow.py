"""k of n custodians bring the server's keys back when the KEK is lost; fewer do not, and nothing else is escrowed."""

from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from audit.models import Event
from keyring import data_keys, services
from keyring.columns import Scope, wrapped_columns
from keyring.custodians import make_custodian_key, open_share, read_custodian, read_opened_share
from keyring.envelope import EnvelopeError
from keyring.escrow import recover_escrow, split_escrow
from keyring.kek_file import FileProvider
from keyring.models import DataKey, EscrowSplit
from keyring.shares import EscrowError
from qflare_protocol.cose import sign1, verify1
from sessions.models import Session, SessionState
from tests.keyring.fresh_process import kek_file, restart
from tests.keyring.wrapped_site import NOW, opened_values, populate_secrets

__all__ = ["kek_file"]  # a fixture

pytestmark = pytest.mark.django_db

NAMES = ("carol", "dave", "erin")


@pytest.fixture(scope="module")
def keys() -> dict[str, tuple[str, str]]:
    return {name: make_custodian_key() for name in NAMES}


@pytest.fixture
def people(keys: dict[str, tuple[str, str]], tmp_path: Path) -> list[str]:
    """The options of three custodians whose public keys are on disk."""
    for name, (private, public) in keys.items():
        (tmp_path / f"{name}.key").write_text(private)
        (tmp_path / f"{name}.pub").write_text(public)
    return [f"{name}={tmp_path}/{name}.pub" for name in NAMES]


def split(people: list[str], folder: Path, threshold: int = 2) -> str:
    out = StringIO()
    options = [f"--custodian={person}" for person in people]
    call_command("escrow_split", *options, f"--threshold={threshold}", f"--out={folder}", stdout=out)
    return out.getvalue()


def open_shares(folder: Path, *names: str) -> list[Path]:
    """Let custodians open their shares; return the files."""
    opened = [folder / f"{name}.opened" for name in names]
    for name, file in zip(names, opened, strict=True):
        key = folder.parent / f"{name}.key"
        options = [f"--key={key}", f"--out={file}"]
        call_command("escrow_custodian", "open", f"{folder}/{name}.share", *options, stdout=StringIO())
    return opened


def recover(*shares: Path) -> str:
    out = StringIO()
    call_command("escrow_recover", *map(str, shares), stdout=out)
    return out.getvalue()


def lose_the_kek(kek_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kek_file.unlink()
    restart(monkeypatch)


@pytest.mark.parametrize("pair", [("carol", "dave"), ("erin", "carol"), NAMES])
def test_with_the_kek_lost_custodians_bring_the_identity_back(
    pair: tuple[str, ...], people: list[str], tmp_path: Path, kek_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprint, log = services.server_signer("identity").fingerprint, services.server_signer("log").fingerprint
    split(people, tmp_path / "out")
    lose_the_kek(kek_file, monkeypatch)
    with pytest.raises(EnvelopeError, match="data key that does not open: The file provider has no KEK"):
        services.server_signer("identity")
    said = recover(*open_shares(tmp_path / "out", *pair))
    restart(monkeypatch)
    signer = services.server_signer("identity")
    assert (signer.fingerprint, services.server_signer("log").fingerprint) == (fingerprint, log)
    signed = sign1(signer, {"a": 1}, purpose="test")
    assert verify1(services.server_verifier("identity"), signed, purpose="test") == {"a": 1}
    (kek,) = FileProvider().keks()
    assert f"recovered under the KEK {kek.id.hex()} (file)" in said


def test_the_split_and_the_recovery_are_recorded(
    people: list[str], tmp_path: Path, kek_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.server_signer("identity")
    assert "any 2 of 3 recover" in split(people, tmp_path / "out")
    escrow = EscrowSplit.objects.get()
    event = Event.objects.get(kind="escrow.split")
    assert event.payload == {"escrow_id": str(escrow.id), "threshold": 2, "custodians": "carol, dave, erin"}
    lose_the_kek(kek_file, monkeypatch)
    recover(*open_shares(tmp_path / "out", "carol", "erin"))
    event = Event.objects.get(kind="escrow.recovered")
    assert event.payload["escrow_id"] == str(escrow.id)
    assert event.payload["kek_id"] == FileProvider().keks()[0].id.hex()
    assert event.actor.startswith("operator:")


def test_the_files_of_a_split_are_private_and_hold_no_share_in_the_clear(people: list[str], tmp_path: Path) -> None:
    said = split(people, tmp_path / "out")
    for name in NAMES:
        file = tmp_path / "out" / f"{name}.share"
        words = open_share(file.read_text(), (tmp_path / f"{name}.key").read_text()).words
        assert file.stat().st_mode & 0o777 == 0o600
        assert words not in file.read_text() + said
        assert read_custodian(name, (tmp_path / f"{name}.pub").read_text()).fingerprint.hex() in said


def test_only_server_keys_are_escrowed_and_the_rest_stays_lost(
    people: list[str], tmp_path: Path, kek_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    populate_secrets()
    split(people, tmp_path / "out")
    escrowed = DataKey.objects.filter(wrapped_for_escrow__isnull=False)
    assert [row.scope for row in escrowed] == [Scope.SERVER_KEYS]
    lose_the_kek(kek_file, monkeypatch)
    said = recover(*open_shares(tmp_path / "out", "carol", "dave"))
    assert "2 sessions ended" in said
    assert "for models" in said
    assert set(Session.objects.values_list("state", "wrapped_secret")) == {(SessionState.ENDED, None)}
    (models,) = [column for column in wrapped_columns() if column.scope == Scope.MODELS]
    assert models.count_under(DataKey.objects.get(scope=Scope.MODELS).id) == 1
    with pytest.raises(EnvelopeError, match="no KEK"):
        opened_values()
    assert data_keys.current_data_key(Scope.SESSIONS).key  # made anew, so devices can open sessions again
    assert Event.objects.get(kind="sessions.ended").payload["count"] == 2


def test_after_a_recovery_the_kek_can_be_rotated(
    people: list[str], tmp_path: Path, kek_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprint = services.server_signer("identity").fingerprint
    populate_secrets()
    split(people, tmp_path / "out")
    lose_the_kek(kek_file, monkeypatch)
    recover(*open_shares(tmp_path / "out", "carol", "dave"))
    out = StringIO()
    call_command("rotate_kek", grace_seconds=0, stdout=out, stderr=out)
    assert "Left as it is: training_modelversion.wrapped_content_key" in out.getvalue()
    restart(monkeypatch)
    assert services.server_signer("identity").fingerprint == fingerprint


def test_one_share_is_not_enough(people: list[str], tmp_path: Path) -> None:
    split(people, tmp_path / "out")
    (share,) = open_shares(tmp_path / "out", "carol")
    for shares in ([share], [share, share]):
        with pytest.raises(CommandError, match="2 different shares are needed; these are 1"):
            recover(*shares)


def test_shares_of_two_splits_are_refused(people: list[str], tmp_path: Path) -> None:
    split(people, tmp_path / "first")
    split(people, tmp_path / "second")
    old, new = open_shares(tmp_path / "first", "carol")[0], open_shares(tmp_path / "second", "dave")[0]
    with pytest.raises(CommandError, match="The shares come from different splits"):
        recover(old, new)


def test_shares_that_were_relabelled_do_not_pass(people: list[str], tmp_path: Path) -> None:
    split(people, tmp_path / "first")
    split(people, tmp_path / "second")
    current = EscrowSplit.objects.first()
    assert current is not None
    old = [read_opened_share(file.read_text()) for file in open_shares(tmp_path / "first", "carol", "dave")]
    for file, share in zip((tmp_path / "a", tmp_path / "b"), old, strict=True):
        file.write_text(f"{current.id} {share.words}")
    with pytest.raises(CommandError, match="not to the backup KEK of this escrow"):
        recover(tmp_path / "a", tmp_path / "b")


def test_an_earlier_split_is_void(people: list[str], tmp_path: Path) -> None:
    split(people, tmp_path / "first")
    split(people, tmp_path / "second")
    with pytest.raises(CommandError, match="No data key stands under this escrow any more"):
        recover(*open_shares(tmp_path / "first", "carol", "dave"))


def test_shares_of_another_site_are_refused(people: list[str], tmp_path: Path) -> None:
    split(people, tmp_path / "out")
    shares = open_shares(tmp_path / "out", "carol", "dave")
    DataKey.objects.update(escrow=None, wrapped_for_escrow=None)
    EscrowSplit.objects.all().delete()
    with pytest.raises(CommandError, match="The shares belong to no escrow of this database"):
        recover(*shares)


def test_a_tampered_wrapping_recovers_nothing(people: list[str], tmp_path: Path) -> None:
    split(people, tmp_path / "out")
    shares = open_shares(tmp_path / "out", "carol", "dave")
    row = DataKey.objects.get(scope=Scope.SERVER_KEYS)
    before = bytes(row.wrapped_key)
    for damaged in (b"", bytes(60), bytes(row.wrapped_for_escrow)[:-1]):
        DataKey.objects.update(wrapped_for_escrow=damaged)
        with pytest.raises(CommandError, match="is damaged or belongs to another row"):
            recover(*shares)
    assert bytes(DataKey.objects.get(scope=Scope.SERVER_KEYS).wrapped_key) == before
    assert not Event.objects.filter(kind="escrow.recovered").exists()


def test_recovering_without_a_loss_changes_no_key_and_ends_no_session(people: list[str], tmp_path: Path) -> None:
    populate_secrets()
    values = opened_values()
    split(people, tmp_path / "out")
    assert "0 sessions ended" in recover(*open_shares(tmp_path / "out", "carol", "dave"))
    assert opened_values() == values


def test_a_rotation_leaves_the_escrow_behind_and_says_so(people: list[str], tmp_path: Path) -> None:
    services.server_signer("identity")
    split(people, tmp_path / "out")
    out = StringIO()
    call_command("rotate_kek", grace_seconds=0, stdout=out)
    assert "split the escrow anew" in out.getvalue()
    with pytest.raises(CommandError, match="a later split or rotation has replaced it"):
        recover(*open_shares(tmp_path / "out", "carol", "dave"))


def test_shares_can_be_typed(people: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split(people, tmp_path / "out")
    lines = [file.read_text().strip().upper() for file in open_shares(tmp_path / "out", "carol", "dave")]
    answers = iter([*lines, ""])
    monkeypatch.setattr("qflare_site.management.commands.escrow_recover.getpass", lambda prompt: next(answers))
    assert "The server keys are recovered" in recover()


def test_a_split_that_cannot_be_written_changes_nothing(people: list[str], tmp_path: Path) -> None:
    split(people, tmp_path / "out")
    escrow = EscrowSplit.objects.get()
    with pytest.raises(CommandError, match="carol.share: File exists; nothing was changed"):
        split(people, tmp_path / "out")
    assert EscrowSplit.objects.get() == escrow
    assert DataKey.objects.get(scope=Scope.SERVER_KEYS).escrow == escrow
    assert "The server keys are recovered" in recover(*open_shares(tmp_path / "out", "carol", "dave"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["carol"], "is not NAME=PUBLIC_KEY_FILE"),
        (["carol={dir}/carol.pub", "carol={dir}/dave.pub"], "Two custodians bear one name"),
        (["carol={dir}/carol.pub", "dave={dir}/carol.pub"], "Two custodians have one key"),
        (["carol={dir}/carol.key", "dave={dir}/dave.pub"], "is not a QFLARE escrow custodian public key"),
        (["carol={dir}/absent", "dave={dir}/dave.pub"], "No such file or directory; nothing was changed"),
        (["carol={dir}/carol.pub"], "A threshold lies between 2"),
    ],
)
def test_custodians_that_cannot_be_are_refused(
    options: list[str], sentence: str, people: list[str], tmp_path: Path
) -> None:
    with pytest.raises(CommandError, match=sentence):
        split([option.format(dir=tmp_path) for option in options], tmp_path / "out")
    assert not EscrowSplit.objects.exists()


def test_no_backup_kek_is_kept_anywhere(people: list[str], tmp_path: Path, keys: dict[str, tuple[str, str]]) -> None:
    from keyring.shares import combine_secret

    custodians = [read_custodian(name, keys[name][1]) for name in NAMES]
    escrow, files = split_escrow(custodians, 2, now=NOW)
    backup = combine_secret([open_share(text, keys[person.name][0]).words for person, text in files[:2]])
    kept = [bytes(row.wrapped_for_escrow or b"") + bytes(row.wrapped_key) for row in DataKey.objects.all()]
    assert all(backup not in value for value in [*kept, bytes(escrow.backup_kek_id)])
    assert backup.hex() not in f"{escrow!r} {escrow.custodians} {custodians!r} {files[0][0]!r}"


def test_without_shares_nothing_is_recovered() -> None:
    with pytest.raises(EscrowError, match="There is no share to combine"):
        recover_escrow([], now=timezone.now())
