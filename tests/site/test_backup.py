"""A backup opens for those it was sealed to, holds the whole site, and becomes a site again on an empty host."""

from datetime import timedelta
from io import StringIO

import pytest
from allauth.mfa.models import Authenticator
from axes.models import AccessLog
from django.apps import apps
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from django.db import transaction
from django.utils import timezone

from audit.models import Event
from audit.services import record_event, root_at, sequence_log, tree_size
from audit.verification import verify_log
from devices.models import Device
from keyring.custodians import make_custodian_key, read_custodian, read_private_key
from keyring.services import _SIGNERS, server_signer
from operator_access.roles import Role, set_up_roles
from operator_access.services.factor_secrets import keep_secret, open_secret
from operator_access.services.people import create_operator, roles_of
from qflare_site.backup import rows
from qflare_site.backup.archive import BackupError, read_archive, written_archive
from qflare_site.backup.files import put_back
from qflare_site.backup.services import SUMMARY, check_backup, restore_backup, take_backup
from sessions.models import Session, SessionState
from tests.bucket import new_bucket, object_store
from tests.factories import populate
from training.blob_store.configured import blob_store
from training.blobs import blob_path, open_blob, store_blob
from training.models import ModelVersion

PRIVATE, PUBLIC = make_custodian_key()
ADA = read_custodian("ada", PUBLIC)
EVE_PRIVATE, EVE_PUBLIC = make_custodian_key()
KEY = read_private_key(PRIVATE)
pytestmark = pytest.mark.django_db(transaction=True)


def silent(_):
    pass


__all__ = ["new_bucket", "object_store"]


def take(path, recipients=(ADA,)):
    return take_backup(path, recipients, actor="operator:ada", now=timezone.now(), progress=silent)


def restore(path, key=KEY):
    return restore_backup(path, key, actor="operator:ada", now=timezone.now(), progress=silent)


@pytest.fixture
def host(tmp_path, settings):
    """Give this test a host of its own: KEK, blobs and enclave directory."""

    def new_host(name):
        settings.QFLARE_KEK_FILE = tmp_path / name / "kek"
        settings.QFLARE_BLOB_DIR = tmp_path / name / "blobs"
        settings.QFLARE_ENCLAVE_DIR = tmp_path / name / "enclave"
        _SIGNERS.clear()

    new_host("old")
    return new_host


@pytest.fixture
def site(host):
    """A populated site whose blobs are really there."""
    site = populate()
    for number, version in enumerate(ModelVersion.objects.all()):
        ModelVersion.objects.filter(pk=version.pk).update(blob_digest=store_blob([b"model", bytes([number])]).digest)
    sequence_log()
    return site


def everything():
    return {model._meta.label: sorted(map(str, model._default_manager.values_list())) for model in rows.kept_models()}


@pytest.fixture
def empty(host):
    """Return what empties the database and moves to another host."""

    def flush():
        call_command("flush", interactive=False, verbosity=0, allow_cascade=True)
        host("new")

    return flush


@pytest.fixture(autouse=True)
def only_model_blobs(monkeypatch):
    """The updates of the populated site name blobs that nobody ever sent."""
    digests = ModelVersion.objects.values_list("blob_digest", flat=True)
    monkeypatch.setattr("qflare_site.backup.services.referenced_digests", lambda: set(digests.all()))


def test_a_restored_site_has_every_row_blob_and_key(site, empty, tmp_path):
    report = take(tmp_path / "backup.qfb")
    before, blobs = everything(), {version.blob_digest for version in ModelVersion.objects.all()}
    signer = server_signer("log").fingerprint
    empty()
    restored = restore(tmp_path / "backup.qfb")
    assert restored == report
    after = everything()
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"audit.Event", "device_sessions.Session"}
    assert set(before["audit.Event"]) <= set(after["audit.Event"])
    assert all(blob_path(digest).exists() for digest in blobs)
    assert server_signer("log").fingerprint == signer


@pytest.mark.parametrize("old", ["folder", "s3"])
def test_blobs_are_restored_into_a_bucket_from_a_folder_or_another_bucket(old, request, host, new_bucket, tmp_path):
    if old == "s3":
        new_bucket()
    request.getfixturevalue("site")
    blobs = {digest: content_of(digest) for digest in ModelVersion.objects.values_list("blob_digest", flat=True)}
    take(tmp_path / "backup.qfb")
    request.getfixturevalue("empty")()
    new_bucket()
    assert not any(blob_store().size_of(digest) for digest in blobs)
    restore(tmp_path / "backup.qfb")
    assert {digest: content_of(digest) for digest in blobs} == blobs


def test_a_blob_that_a_bucket_lost_is_named(request, host, new_bucket, tmp_path):
    new_bucket()
    request.getfixturevalue("site")
    digest = ModelVersion.objects.first().blob_digest
    blob_store().bucket.remove(f"blobs/{digest[:2]}/{digest}")
    with pytest.raises(BackupError, match=digest):
        take(tmp_path / "backup.qfb")
    assert not (tmp_path / "backup.qfb").exists()


def content_of(digest):
    with open_blob(digest) as blob:
        return blob.read()


def test_the_log_goes_on_where_it_was(site, empty, tmp_path):
    report = take(tmp_path / "backup.qfb")
    empty()
    restore(tmp_path / "backup.qfb")
    assert (tree_size(), root_at(tree_size())) == (report.log_size, report.log_root)
    sequence_log()
    assert verify_log().entries > report.log_size
    assert Event.objects.filter(kind="site.restored").get().description.startswith("This site was restored")


def test_what_an_operator_saved_and_a_stranger_typed_comes_back(site, empty, tmp_path):
    operator = User.objects.create_user("ada")
    LogEntry.objects.create(user=operator, action_flag=2, object_repr="a row")
    signed_in = AccessLog.objects.create(username="ada", user_agent="one\u2028two\x85three", path_info="/")
    AccessLog.objects.update(attempt_time=timezone.now() - timedelta(days=9))
    with transaction.atomic():
        record_event("operator.sign_in_failed", actor="stranger", payload={"operator": "eve\u2028\u2029\x85"})
    take(tmp_path / "backup.qfb")
    check_backup(tmp_path / "backup.qfb", KEY, progress=silent)
    before = (AccessLog.objects.get().attempt_time, LogEntry.objects.get().user.username)
    empty()
    restore(tmp_path / "backup.qfb")
    assert (AccessLog.objects.get().attempt_time, LogEntry.objects.get().user.username) == before
    assert AccessLog.objects.get().user_agent == signed_in.user_agent
    assert Event.objects.filter(payload__operator="eve\u2028\u2029\x85").exists()


@pytest.mark.parametrize(
    "name",
    [
        "enclave//etc/attestation.key",
        "enclave/../attestation.key",
        "enclave/rounds/00.key",
        "enclave/federations/..",
        "kek/../../x",
        "kek/",
        "other/attestation.key",
    ],
)
def test_a_forged_member_names_no_file_of_the_host(host, name):
    with pytest.raises(BackupError, match="no host has"):
        put_back(name, b"mine")


def test_a_kek_that_goes_while_a_backup_is_taken_is_in_it(site, empty, tmp_path, monkeypatch):
    read = iter([{"kek/1": b"old"}, {"kek/2": b"new"}])
    monkeypatch.setattr("qflare_site.backup.files.read_files", lambda: next(read))
    take(tmp_path / "backup.qfb")
    names = [name for name, _ in read_archive(tmp_path / "backup.qfb", KEY)]
    assert {"files/kek/1", "files/kek/2"} <= set(names)


def test_roles_and_second_factors_come_back_on_a_site_that_has_made_its_own_roles(site, empty, tmp_path):
    Group.objects.all().delete()
    set_up_roles(apps)
    Group.objects.get(name=Role.VIEWER).delete()
    auditor = create_operator("ada", roles=[Role.AUDITOR], password="a long enough password", actor="operator:root")
    secret = keep_secret("JBSWY3DPEHPK3PXP", user_id=auditor.pk)
    Authenticator.objects.create(user=auditor, type=Authenticator.Type.TOTP, data={"secret": secret})
    take(tmp_path / "backup.qfb")
    empty()
    Group.objects.create(name="made before the roles, so that they have other keys")
    set_up_roles(apps)
    restore(tmp_path / "backup.qfb")
    ada = User.objects.get(username="ada")
    assert roles_of(ada) == [Role.AUDITOR]
    assert ada.has_perm("audit.change_entry")
    assert not ada.has_perm("devices.change_device")
    assert set(Group.objects.values_list("name", flat=True)) == set(Role) - {Role.VIEWER}
    assert open_secret(Authenticator.objects.get(user=ada).data["secret"]) == "JBSWY3DPEHPK3PXP"


def test_sessions_end_because_their_answers_are_not_kept(site, empty, tmp_path):
    assert Session.objects.filter(state=SessionState.ACTIVE).exists()
    take(tmp_path / "backup.qfb")
    empty()
    restore(tmp_path / "backup.qfb")
    assert set(Session.objects.values_list("state", flat=True)) == {SessionState.ENDED}


def test_new_rows_get_keys_of_their_own_after_a_restoration(site, empty, tmp_path):
    take(tmp_path / "backup.qfb")
    highest = Event.objects.order_by("-id").values_list("id", flat=True)[0]
    empty()
    restore(tmp_path / "backup.qfb")
    assert Event.objects.order_by("-id").values_list("id", flat=True)[0] > highest


def test_a_backup_opens_for_each_recipient_and_nobody_else(site, tmp_path):
    eve = read_custodian("eve", EVE_PUBLIC)
    take(tmp_path / "both.qfb", [ADA, eve])
    for private in (PRIVATE, EVE_PRIVATE):
        check_backup(tmp_path / "both.qfb", read_private_key(private), progress=silent)
    take(tmp_path / "ada.qfb")
    with pytest.raises(BackupError, match="sealed to other keys"):
        check_backup(tmp_path / "ada.qfb", read_private_key(EVE_PRIVATE), progress=silent)


def test_nothing_of_the_site_stands_in_the_file_in_clear(site, tmp_path):
    take(tmp_path / "backup.qfb")
    content = (tmp_path / "backup.qfb").read_bytes()
    assert not any(device.name.encode() in content for device in Device.objects.all())
    assert (tmp_path / "backup.qfb").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("place", [0, 4, 40, 1000, 5000, -1])
def test_a_changed_byte_is_found_and_nothing_is_restored(site, empty, tmp_path, place):
    take(tmp_path / "backup.qfb")
    content = bytearray((tmp_path / "backup.qfb").read_bytes())
    content[place] ^= 1
    (tmp_path / "changed.qfb").write_bytes(content)
    empty()
    with pytest.raises(BackupError):
        restore(tmp_path / "changed.qfb")
    assert rows.is_empty()


@pytest.mark.parametrize("kept", [0, 3, 100, 70_000, -1, -20])
def test_a_file_that_was_cut_off_is_found_and_nothing_is_restored(site, empty, tmp_path, kept):
    take(tmp_path / "backup.qfb")
    (tmp_path / "cut.qfb").write_bytes((tmp_path / "backup.qfb").read_bytes()[:kept])
    empty()
    with pytest.raises(BackupError):
        restore(tmp_path / "cut.qfb")
    assert rows.is_empty()


def test_an_archive_without_its_end_is_refused(tmp_path):
    with written_archive(tmp_path / "short.qfb", [ADA]) as archive:
        archive.add("manifest.json", b'{"format": 1, "migrations": []}')
    with pytest.raises(BackupError, match="no summary"):
        check_backup(tmp_path / "short.qfb", KEY, progress=silent)


def test_a_site_in_use_is_left_alone(site, tmp_path):
    take(tmp_path / "backup.qfb")
    before = everything()
    with pytest.raises(BackupError, match="in use"):
        restore(tmp_path / "backup.qfb")
    assert everything() == before


def test_a_host_with_another_kek_is_left_alone(site, empty, tmp_path, settings):
    take(tmp_path / "backup.qfb")
    empty()
    settings.QFLARE_KEK_FILE.parent.mkdir(parents=True)
    settings.QFLARE_KEK_FILE.write_bytes(b"k" * 32)
    with pytest.raises(BackupError, match="is another one"):
        restore(tmp_path / "backup.qfb")
    assert settings.QFLARE_KEK_FILE.read_bytes() == b"k" * 32
    assert rows.is_empty()


def test_a_backup_of_another_release_is_refused(site, empty, tmp_path, monkeypatch):
    with monkeypatch.context() as other_release:
        other_release.setattr("qflare_site.backup.rows.applied_migrations", lambda: ["audit.0009_later"])
        take(tmp_path / "backup.qfb")
    empty()
    with pytest.raises(BackupError, match="another release"):
        restore(tmp_path / "backup.qfb")


def test_a_missing_blob_stops_the_backup_and_leaves_no_file(site, tmp_path):
    blob_path(ModelVersion.objects.first().blob_digest).unlink()
    with pytest.raises(BackupError, match="is missing"):
        take(tmp_path / "backup.qfb")
    assert list(tmp_path.glob("*.qfb")) == []
    assert list(tmp_path.glob(".*")) == []


def test_an_older_backup_is_replaced_by_nobody(site, tmp_path):
    (tmp_path / "backup.qfb").write_text("mine")
    with pytest.raises(BackupError, match="exists already"):
        take(tmp_path / "backup.qfb")
    assert (tmp_path / "backup.qfb").read_text() == "mine"


def test_the_commands_say_what_they_did(site, empty, tmp_path):
    (tmp_path / "ada.pub").write_text(PUBLIC)
    (tmp_path / "ada").write_text(PRIVATE)
    said = StringIO()
    call_command("backup", tmp_path / "backup.qfb", to=[f"ada={tmp_path / 'ada.pub'}"], stdout=said)
    assert ADA.fingerprint.hex() in said.getvalue()
    call_command("restore", tmp_path / "backup.qfb", key=tmp_path / "ada", check=True, stdout=said)
    assert "opens: taken" in said.getvalue()
    empty()
    call_command("restore", tmp_path / "backup.qfb", key=tmp_path / "ada", stdout=said)
    assert "revoke them anew" in said.getvalue()
    with pytest.raises(CommandError, match="in use"):
        call_command("restore", tmp_path / "backup.qfb", key=tmp_path / "ada")


def test_members_are_the_ones_the_document_names(site, tmp_path):
    take(tmp_path / "backup.qfb")
    names = [name for name, _ in read_archive(tmp_path / "backup.qfb", KEY)]
    assert names[0] == "manifest.json"
    assert names[-1] == SUMMARY
    assert {name.split("/")[0] for name in names} == {"manifest.json", "rows", "blobs", "files", SUMMARY}
