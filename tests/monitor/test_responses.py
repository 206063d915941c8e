"""Answers to incidents: what each does, that it is audited, undone by an operator, and never done twice."""

import pytest

from audit.models import Event
from devices.models import Device, DeviceState
from devices.services import resume_device, suspend_device
from monitor.models import Response, ResponseState
from monitor.services.responses import carry_out_due, is_undoable, undo_response
from qflare_protocol.errors import Refusal
from sessions.models import Session, SessionState
from tests.factories import make_device, make_federation, make_session
from tests.monitor.conftest import OLGA, Scene
from training.models import Federation, FederationState
from training.services.federations import pause_federation, resume_federation

pytestmark = pytest.mark.django_db


@pytest.fixture
def device(scene: Scene) -> Device:
    device = make_device("edge-1")
    make_session(device)
    return device


def attacked(scene: Scene, *responses: str) -> list[Response]:
    """Have the enclave reject the device's updates; return the responses by this policy."""
    scene.tuned("rejected-updates", responses=list(responses), threshold=1)
    payload = {"device": "edge-1", "reason": "consensus-cosine", "federation": "digits", "round_number": 1}
    scene.event("update.rejected", actor="enclave", **payload)
    (incident,) = scene.look()
    return list(incident.responses.order_by("id"))


def undo(response: Response, scene: Scene, reason: str = "a false alarm") -> None:
    undo_response(response.id, reason=reason, actor=OLGA, now=scene.now)
    response.refresh_from_db()


def test_sessions_are_revoked_which_cannot_be_undone(scene, device):
    (response,) = attacked(scene, "revoke-sessions")
    assert (response.state, response.detail) == (ResponseState.DONE, "1 sessions have ended.")
    assert Session.objects.get().state == SessionState.ENDED
    assert Device.objects.get().state == DeviceState.ACTIVE
    assert not is_undoable(response)
    with pytest.raises(Refusal, match="keys are gone"):
        undo(response, scene)


def test_a_device_is_suspended_and_an_operator_lets_it_work_again(scene, device):
    (response,) = attacked(scene, "suspend-device")
    device.refresh_from_db()
    assert device.state == DeviceState.SUSPENDED
    assert str(response.incident_id) in device.state_reason
    undo(response, scene)
    device.refresh_from_db()
    assert (response.state, device.state, device.state_reason) == ("undone", "active", "a false alarm")
    actors = dict(Event.objects.filter(kind__startswith="response.").values_list("kind", "actor"))
    assert actors == {"response.done": "monitor", "response.undone": OLGA}
    assert response.incident.timeline.last().text == "Suspend the device edge-1 undone: a false alarm"


def test_undoing_does_not_lift_what_somebody_decided_since(scene, device):
    (response,) = attacked(scene, "suspend-device")
    resume_device(device.id, reason="looked at", actor=OLGA, now=scene.now)
    suspend_device(device.id, reason="sold", actor=OLGA, now=scene.now)
    with pytest.raises(Refusal, match="for another reason by now: sold"):
        undo(response, scene)
    device.refresh_from_db()
    assert device.state == DeviceState.SUSPENDED


def test_new_keys_are_demanded_and_the_demand_is_withdrawn(scene, device):
    due = device.keys_due_at
    (response,) = attacked(scene, "demand-keys")
    device.refresh_from_db()
    assert device.must_rotate_keys(scene.now)
    undo(response, scene)
    device.refresh_from_db()
    assert device.keys_due_at == due


def test_a_federation_is_paused_and_resumed(scene, device):
    make_federation("digits")
    (response,) = attacked(scene, "pause-federation")
    assert (response.target, Federation.objects.get().state) == ("digits", FederationState.PAUSED)
    undo(response, scene)
    assert Federation.objects.get().state == FederationState.ACTIVE


def test_undoing_does_not_lift_a_pause_of_somebody_else(scene, device):
    federation = make_federation("digits")
    (response,) = attacked(scene, "pause-federation")
    resume_federation(federation.id, actor=OLGA)
    pause_federation(federation.id, actor=OLGA)
    with pytest.raises(Refusal, match="paused by somebody else"):
        undo(response, scene)
    assert Federation.objects.get().state == FederationState.PAUSED


def test_the_log_tells_of_a_response_in_words(scene, device):
    (response,) = attacked(scene, "notify")
    expected = f"Notify, in answer to incident {response.incident_id}: 0 channels are told."
    assert Event.objects.get(kind="response.done").description == expected


def test_several_responses_are_each_done_though_one_is_refused(scene, device):
    suspend_device(device.id, reason="lost", actor=OLGA, now=scene.now)
    responses = attacked(scene, "suspend-device", "revoke-sessions", "notify")
    assert [response.state for response in responses] == ["failed", "done", "done"]
    assert "cannot become suspended" in responses[0].detail
    event = Event.objects.get(kind="response.failed")
    assert (event.payload["action"], event.payload["target"]) == ("suspend-device", "edge-1")
    assert not is_undoable(responses[0])
    with pytest.raises(Refusal, match="The response is failed"):
        undo(responses[0], scene)


def test_a_device_that_is_not_there_any_more_is_a_failed_response(scene):
    (response,) = attacked(scene, "suspend-device")
    assert (response.state, response.detail) == ("failed", "There is no device edge-1.")


def test_what_is_done_is_not_done_again(scene, device):
    attacked(scene, "suspend-device")
    resume_device(device.id, reason="looked at", actor=OLGA, now=scene.now)
    carry_out_due(now=scene.now)
    payload = {"device": "edge-1", "reason": "norm-bound", "federation": "digits", "round_number": 2}
    scene.later(minutes=1).event("update.rejected", actor="enclave", **payload)
    scene.look()
    device.refresh_from_db()
    assert device.state == DeviceState.ACTIVE
    assert Response.objects.count() == 1


def test_undoing_twice_and_without_a_reason_is_refused(scene, device):
    (response,) = attacked(scene, "suspend-device")
    with pytest.raises(Refusal, match="State the reason"):
        undo(response, scene, reason=" ")
    undo(response, scene)
    with pytest.raises(Refusal, match="The response is undone"):
        undo(response, scene)


def test_a_response_that_a_crash_left_due_is_carried_out_by_the_next_look(scene, device):
    (response,) = attacked(scene, "revoke-sessions")
    Session.objects.update(challenge_digest=b"of the session that has ended")
    make_session(device)
    Response.objects.update(state=ResponseState.DUE, carried_out_at=None)
    scene.later(seconds=5).look()
    response.refresh_from_db()
    assert (response.state, response.carried_out_at) == (ResponseState.DONE, scene.now)
    assert not Session.objects.exclude(state=SessionState.ENDED).exists()
