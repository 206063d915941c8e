"""On PostgreSQL a device's request reaches its own rows alone, whatever the view asks for."""

import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, ProgrammingError, connection, transaction
from django.test import override_settings
from django.urls import include, path
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from audit.services import sequence_log
from devices import row_security
from devices.models import Device, DeviceKey
from devices.row_security import confined_to
from sessions.archiving import archive_sessions
from sessions.models import Exchange, Session
from sessions.sealed_views import SealedView
from sessions.services import sweep_sessions
from tests.database.roles import acting_as
from tests.factories import make_device, make_session
from tests.open_rounds import Submission, make_federation, send_submission
from tests.people import OPERATOR, Line, Person, enrol, nothing_changed
from training.models import Participation, Round, RoundState, Update
from training.services.rounds import close_round, open_round
from training.services.steps import prepare_round

pytestmark = pytest.mark.django_db

OF_ONE_DEVICE = {
    "devices_device", "devices_devicekey", "device_sessions_session", "device_sessions_exchange",
    "device_sessions_keyrotationattempt", "device_sessions_reservedqkdkey", "training_participation",
    "training_update", "training_upload", "training_versionevaluation",
}  # fmt: skip


class BrokenView(SealedView):
    """A view that forgets whose request it serves: it looks at everybody's rows, and changes what it finds."""

    def post(self, request: Request) -> Response:
        stranger = Device.objects.exclude(id=request.user.id)
        return Response(
            {
                "own": [
                    Device.objects.count(), DeviceKey.objects.count(), Session.objects.count(),
                    Participation.objects.count(), Update.objects.count(),
                ],
                "devices": list(stranger.values_list("name", flat=True)),
                "keys": list(DeviceKey.objects.exclude(device=request.user).values_list("version", flat=True)),
                "sessions": list(Session.objects.exclude(device=request.user).values_list("suite", flat=True)),
                "answers": list(Exchange.objects.exclude(session__device=request.user).values_list("id", flat=True)),
                "updates": list(
                    Update.objects.exclude(participation__device=request.user).values_list("receipt", flat=True)
                ),
                "parts": list(Participation.objects.exclude(device=request.user).values_list("state", flat=True)),
                "changed": DeviceKey.objects.exclude(device=request.user).update(valid_until=None)
                + Session.objects.exclude(device=request.user).update(end_reason="by a stranger")
                + Exchange.objects.exclude(session__device=request.user).delete()[0],
            }
        )  # fmt: skip


urlpatterns = [path("api/broken", BrokenView.as_view()), path("", include("qflare_site.urls"))]


def setting() -> str | None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT nullif(current_setting('qflare.device_id', true), '')")
        return cursor.fetchone()[0]


def policies() -> dict[str, bool]:
    """Return the tables with a policy, and whether it binds their owner."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT relname, relforcerowsecurity FROM pg_class WHERE relrowsecurity")
        return dict(cursor.fetchall())


def test_every_table_that_names_a_device_has_a_policy_that_binds_its_owner_too(roles: Any) -> None:
    assert policies() == dict.fromkeys(OF_ONE_DEVICE, True)


def test_a_new_table_with_a_device_in_it_has_to_get_a_policy() -> None:
    from django.apps import apps

    naming = {
        model._meta.db_table
        for model in apps.get_models()
        if any(field.related_model is Device for field in model._meta.concrete_fields if field.name == "device")
    }
    assert naming <= OF_ONE_DEVICE


@override_settings(ROOT_URLCONF=__name__)
def test_a_broken_view_gets_no_session_update_or_key_of_another_device(
    roles: Any, running: Round, alice: Person, carol: Person
) -> None:
    theirs = carol.line()
    Submission(running, carol).hand_in(theirs)
    line = alice.line()
    with acting_as("web"):
        seen = line.ask("/api/broken").message
    assert seen.pop("own") == [1, 2, 1, 1, 0]
    assert seen.pop("changed") == 0
    assert set(map(tuple, seen.values())) == {()}
    assert Update.objects.filter(participation__device=carol.device).count() == 1


@override_settings(ROOT_URLCONF=__name__)
def test_it_gets_none_either_by_a_request_that_is_accepted_the_long_way(
    roles: Any, running: Round, alice: Person, carol: Person
) -> None:
    Submission(running, carol).hand_in(carol.line())
    line = alice.line()
    with acting_as("web"):
        line.ask("/api/broken", sequence=9)
        seen = line.ask("/api/broken", sequence=3).message
    assert seen["own"] == [1, 2, 1, 1, 0]
    assert (seen["sessions"], seen["updates"], seen["devices"], seen["changed"]) == ([], [], [], 0)


@override_settings(ROOT_URLCONF=__name__)
def test_without_the_policies_that_view_would_get_everything(
    roles: Any, running: Round, alice: Person, carol: Person
) -> None:
    Submission(running, carol).hand_in(carol.line())
    seen = alice.line().ask("/api/broken").message  # as the superuser, whom no policy binds
    assert (len(seen["sessions"]), len(seen["updates"]), seen["devices"]) == (1, 1, ["carol", "dave"])


@pytest.mark.parametrize("role", ["web", "migration"])
def test_policies_bind_the_web_process_and_the_owner_of_the_tables(roles: Any, role: str) -> None:
    mine, other = make_device("mine"), make_device("other")
    make_session(other)
    with acting_as(role):
        assert Device.objects.count() == 2
        with confined_to(mine.id):
            assert list(Device.objects.all()) == [mine]
            assert not Session.objects.exists()
            assert set(DeviceKey.objects.values_list("device_id", flat=True)) == {mine.id}
        assert Device.objects.count() == 2


def test_a_row_for_another_device_cannot_be_written_either(roles: Any) -> None:
    mine, other = make_device("mine"), make_device("other")
    session = make_session(other)
    answer = {"sequence": 1, "request_digest": b"", "status": 200, "salt": b"", "answer": b""}
    with acting_as("web"), confined_to(mine.id):
        with pytest.raises(ProgrammingError, match="row-level security"), transaction.atomic():
            Exchange.objects.create(session_id=session.id, **answer)
        with pytest.raises(ProgrammingError, match="row-level security"), transaction.atomic():
            DeviceKey.objects.filter(device=mine).update(device=other)


def test_a_device_that_is_none_sees_nothing(roles: Any) -> None:
    make_session(make_device("other"))
    with acting_as("web"), confined_to(uuid.uuid4()):
        assert not Device.objects.exists()
        assert not Session.objects.exists()


def test_a_setting_out_of_form_is_an_error_and_no_way_round(roles: Any) -> None:
    make_device("other")
    with acting_as("web"), connection.cursor() as cursor:
        cursor.execute("SELECT set_config('qflare.device_id', 'everybody', true)")
        with pytest.raises(Exception, match="invalid input syntax for type uuid"), transaction.atomic():
            Device.objects.count()


def test_enrolment_handshake_work_submission_and_key_rotation_go_on_working(
    roles: Any, enclave_here: None, tmp_path: Path
) -> None:
    """Each process in its role: what a device's request needs beyond its own rows, it gets."""
    with acting_as("web"):
        fleet = [enrol(name, tmp_path / name) for name in ("alice", "carol", "dave")]
        federation = make_federation()
        opened = open_round(federation.id, actor=OPERATOR, now=timezone.now())
    with acting_as("worker"):
        assert prepare_round(opened.id, now=timezone.now())
    opened.refresh_from_db()
    with acting_as("web"):
        lines = [person.line() for person in fleet]
        for person, line in zip(fleet, lines, strict=True):
            assert line.ask("/api/work").message["round"]["round_id"] == opened.id.bytes
            assert _model(line, federation.id)["version"] == 0
            body = Submission(opened, person).body()
            assert send_submission(line, body).message == send_submission(line, body).message
        assert lines[0].ask("/api/session/close").message == {}
        session = fleet[0].session()
        session.rotate_keys()
        session.close()
    with acting_as("worker"):
        assert close_round(opened.id, now=timezone.now())
        sweep_sessions(now=timezone.now() + timedelta(days=2))
        assert archive_sessions(now=timezone.now() + timedelta(days=10)) == 4
    with acting_as("audit"):
        assert sequence_log() > 10
    opened.refresh_from_db()
    assert (opened.state, opened.submissions, Update.objects.count()) == (RoundState.AGGREGATING, 3, 3)
    assert DeviceKey.objects.filter(device=fleet[0].device).count() == 4
    assert not Session.objects.exists()


def _model(line: Line, federation_id: uuid.UUID) -> dict[str, Any]:
    path = f"/api/global_model?federation={federation_id}"
    return line.ask(path, method="GET", body=b"", content_type="").message


def test_the_confinement_ends_with_the_request_also_when_it_is_refused(roles: Any, alice: Person) -> None:
    line = alice.line()
    with acting_as("web"):
        line.ask("/api/work")
        assert setting() is None
        assert line.ask("/api/work", {"unknown": 1}).status == 400
        assert setting() is None


def test_a_failed_transaction_takes_the_setting_with_it(roles: Any) -> None:
    mine = make_device("mine")
    with pytest.raises(ProgrammingError), transaction.atomic(), confined_to(mine.id), connection.cursor() as cursor:
        cursor.execute("SELECT nothing_of_that_name")
    assert setting() is None


def test_two_devices_never_share_a_request(roles: Any) -> None:
    mine, other = make_device("mine"), make_device("other")
    with confined_to(mine.id):
        with pytest.raises(RuntimeError, match="confined already"), confined_to(other.id):
            pass
        assert setting() == str(mine.id)


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_breaks_inside_is_not_used_again(roles: Any) -> None:
    mine = make_device("mine")
    with pytest.raises(OperationalError, match="replaced within a device's request"), confined_to(mine.id):
        connection.close()
        Device.objects.count()
    assert setting() is None


@pytest.mark.django_db(transaction=True)
def test_a_connection_whose_setting_cannot_be_taken_back_is_closed(roles: Any) -> None:
    mine = make_device("mine")
    with confined_to(mine.id), connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid, held = cursor.fetchone()[0], connection.connection
        with psycopg.connect(**{**connection.get_connection_params(), "cursor_factory": psycopg.Cursor}) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [pid])
    assert connection.connection is not held
    assert setting() is None


def test_on_sqlite_it_changes_nothing_and_says_so() -> None:
    if connection.vendor == "postgresql":
        pytest.skip("this is about SQLite")
    mine = make_device("mine")
    with nothing_changed(), confined_to(mine.id):
        assert Device.objects.count() == 1
    assert "On SQLite there are no policies" in (row_security.__doc__ or "")
