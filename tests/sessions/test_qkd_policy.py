"""The server's KME by its settings and system checks, and the policy of device groups."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse

from audit.kinds import describe
from audit.models import Event
from qflare_protocol.errors import Refusal
from qflare_protocol.qkd import QkdUnavailable, QkdUse
from sessions.checks import check_qkd
from sessions.models import QkdPolicy
from sessions.qkd import qkd_policy_of, server_kme_client, set_qkd_policy
from tests.factories import ACTOR, NOW, make_device, make_user
from tests.qkd.conftest import ALICE, SERVER, alice, clock, files, simulator

__all__ = ["alice", "clock", "files", "simulator"]  # fixtures; alice is a KME client here

NAMES = ("KME_URL", "SAE_ID", "CERTIFICATE", "PRIVATE_KEY", "CA")


@pytest.fixture
def configured(settings, files):
    """Settings of a server with a KME."""
    values = ("https://127.0.0.1:1", SERVER, files.certificate(SERVER), files.private_key(SERVER), files.ca)
    for name, value in zip(NAMES, values, strict=True):
        setattr(settings, f"QFLARE_QKD_{name}", str(value))
    return settings


def ids():
    return [finding.id for finding in check_qkd(None)]


def test_without_settings_there_is_no_kme_and_nothing_to_find():
    assert server_kme_client() is None
    assert ids() == []


def test_complete_settings_reach_the_kme(configured, simulator, alice):
    assert ids() == []
    configured.QFLARE_QKD_KME_URL = simulator.server_url
    (key,) = server_kme_client().enc_keys(ALICE)
    assert alice.dec_keys(SERVER, [key.key_id]) == [key]


@pytest.mark.parametrize("name", NAMES)
def test_incomplete_settings_are_found_by_name(configured, name):
    setattr(configured, f"QFLARE_QKD_{name}", "")
    (finding,) = check_qkd(None)
    assert finding.id == "qflare.sessions.E001"
    assert f"QFLARE_QKD_{name}" in finding.msg


@pytest.mark.parametrize("name", NAMES[2:])
def test_an_absent_file_is_found(configured, tmp_path, name):
    setattr(configured, f"QFLARE_QKD_{name}", str(tmp_path / "absent"))
    assert ids() == ["qflare.sessions.E002"]
    with pytest.raises(QkdUnavailable):
        server_kme_client()


def test_a_private_key_that_others_can_read_is_found(configured, files, tmp_path):
    key = tmp_path / "open.key"
    key.write_bytes(files.private_key(SERVER).read_bytes())
    key.chmod(0o644)
    configured.QFLARE_QKD_PRIVATE_KEY = str(key)
    (finding,) = check_qkd(None)
    assert finding.id == "qflare.sessions.E003"
    assert "0644" in finding.msg


def test_files_that_do_not_belong_together_are_found(configured, files):
    configured.QFLARE_QKD_CERTIFICATE = str(files.certificate(ALICE))
    assert ids() == ["qflare.sessions.E004"]


@pytest.mark.django_db
def test_a_group_without_a_policy_is_off():
    assert qkd_policy_of(make_device("edge-1", "ward")) is QkdUse.OFF


@pytest.mark.django_db
@pytest.mark.parametrize("group", ["ward", ""])
def test_a_policy_holds_for_the_devices_of_its_group_alone(group):
    set_qkd_policy(group, "required", actor=ACTOR, now=NOW)
    assert qkd_policy_of(make_device("edge-1", group)) is QkdUse.REQUIRED
    assert qkd_policy_of(make_device("edge-2", "other")) is QkdUse.OFF


@pytest.mark.django_db
def test_a_change_is_recorded_with_what_was_before():
    set_qkd_policy("ward", "required", actor=ACTOR, now=NOW)
    row = set_qkd_policy("ward", "preferred", actor=ACTOR, now=NOW + timedelta(hours=1))
    assert row.changed_at == NOW + timedelta(hours=1)
    first, second = Event.objects.order_by("id")
    assert first.payload == {"group": "ward", "previous": "off", "policy": "required"}
    assert second.payload == {"group": "ward", "previous": "required", "policy": "preferred"}
    assert (second.kind, second.actor) == ("qkd_policy.changed", ACTOR)
    assert describe(second.kind, second.payload) == ('QKD for device group "ward" changed from required to preferred')


@pytest.mark.django_db
def test_stating_what_holds_already_records_nothing():
    set_qkd_policy("ward", "off", actor=ACTOR, now=NOW)
    assert not Event.objects.exists()
    set_qkd_policy("ward", "required", actor=ACTOR, now=NOW)
    set_qkd_policy("ward", "required", actor=ACTOR, now=NOW + timedelta(hours=1))
    assert Event.objects.count() == 1
    assert QkdPolicy.objects.get().changed_at == NOW


@pytest.mark.django_db
@pytest.mark.parametrize(("group", "policy"), [("ward", "always"), ("ward", ""), ("w" * 101, "off")])
def test_a_policy_there_is_not_is_refused(group, policy):
    with pytest.raises(Refusal, match="malformed-message"):
        set_qkd_policy(group, policy, actor=ACTOR, now=NOW)
    assert not QkdPolicy.objects.exists()


@pytest.mark.django_db
def test_the_database_refuses_a_second_policy_and_an_unknown_one():
    QkdPolicy.objects.create(group="ward", policy="off", changed_at=NOW)
    for group, policy in (("ward", "required"), ("other", "sometimes")):
        with pytest.raises(IntegrityError), transaction.atomic():
            QkdPolicy.objects.create(group=group, policy=policy, changed_at=NOW)


def run(*arguments):
    out = StringIO()
    call_command("qkd_policy", *arguments, stdout=out)
    return out.getvalue()


@pytest.mark.django_db
def test_the_command_sets_and_lists():
    make_device("edge-1", "ward")
    assert "1 devices" in run("ward", "required")
    assert "0 devices" in run("", "preferred")
    assert run().splitlines() == ["preferred  (no group)", "required   ward"]
    assert Event.objects.filter(kind="qkd_policy.changed", actor__startswith="operator:").count() == 2


@pytest.mark.django_db
@pytest.mark.parametrize("arguments", [["ward"], ["ward", "sometimes"], ["w" * 101, "off"]])
def test_the_command_refuses_half_a_sentence(arguments):
    with pytest.raises(CommandError):
        run(*arguments)
    assert not QkdPolicy.objects.exists()


SET = "admin:device_sessions_qkdpolicy_set_policy"


def browser(name, *codenames):
    client = Client()
    client.force_login(make_user(name, *codenames), backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.mark.django_db
def test_an_operator_sets_a_policy_in_the_admin():
    olga = browser("olga", "view_qkdpolicy", "change_qkdpolicy")
    assert b'name="policy"' in olga.get(reverse(SET)).content
    answer = olga.post(reverse(SET), {"group": "ward", "policy": "required"})
    assert answer.status_code == 302
    assert b"QKD required for ward: this holds from the next handshake on." in olga.get(answer["Location"]).content
    assert QkdPolicy.objects.get().policy == "required"
    assert Event.objects.get(kind="qkd_policy.changed").actor == "operator:olga"


@pytest.mark.django_db
def test_a_policy_there_is_not_is_asked_for_again():
    olga = browser("olga", "view_qkdpolicy", "change_qkdpolicy")
    assert olga.post(reverse(SET), {"group": "ward", "policy": "sometimes"}).status_code == 200
    assert not QkdPolicy.objects.exists()


@pytest.mark.django_db
def test_a_viewer_sets_nothing():
    vera = browser("vera", "view_qkdpolicy")
    assert vera.get(reverse("admin:device_sessions_qkdpolicy_changelist")).status_code == 200
    assert vera.post(reverse(SET), {"group": "ward", "policy": "required"}).status_code == 403
    assert not QkdPolicy.objects.exists()
