"""Sessions of devices, and devices themselves with the verbs that end their sessions."""

from django.contrib import admin
from django.utils import timezone

from devices import services as devices
from devices.admin import DeviceKeyInline
from devices.models import Device
from operator_admin.base import ReadOnlyAdmin
from operator_admin.columns import state_column, stored_state
from operator_admin.forms import ReasonForm
from operator_admin.operations import DANGER, Answers, Operation, on_one, on_selected
from sessions import services
from sessions.models import Session


def _suspend(device: Device, actor: str, answers: Answers) -> str:
    services.suspend_device(device.pk, reason=answers["reason"], actor=actor, now=timezone.now())
    return f"{device} is suspended and its sessions have ended."


def _resume(device: Device, actor: str, answers: Answers) -> str:
    devices.resume_device(device.pk, reason=answers["reason"], actor=actor, now=timezone.now())
    return f"{device} may work again."


def _revoke(device: Device, actor: str, answers: Answers) -> str:
    services.revoke_device(device.pk, reason=answers["reason"], actor=actor, now=timezone.now())
    return f"{device} is revoked and its sessions have ended."


SUSPEND = Operation(
    "suspend",
    "Suspend",
    "Its sessions end at once and it is refused until it is resumed. It keeps its keys and its place in its rounds.",
    _suspend,
    ReasonForm,
)
RESUME = Operation("resume", "Resume", "It may open sessions and take part in rounds again.", _resume, ReasonForm)
REVOKE = Operation(
    "revoke",
    "Revoke",
    "Its sessions end at once and its keys are never accepted again. This is final: to come back, the device "
    "enrols anew, with new keys and under another name.",
    _revoke,
    ReasonForm,
    DANGER,
)


@admin.register(Device)
class DeviceAdmin(ReadOnlyAdmin):
    """Devices are registered here and not in their own app, because suspending one reaches its sessions."""

    status = state_column(stored_state, ordering="state")
    suspend, suspend_selected = on_one(SUSPEND), on_selected(SUSPEND)
    resume, resume_selected = on_one(RESUME), on_selected(RESUME)
    revoke, revoke_selected = on_one(REVOKE), on_selected(REVOKE)

    list_display = ("name", "group", "status", "suite", "last_seen_at", "enrolled_at", "state_reason")
    list_filter = ("state", "group", "suite")
    search_fields = ("name", "group", "state_reason", "id")
    date_hierarchy = "enrolled_at"
    fields = (
        "id", "name", "group", "suite", "status", "state_reason", "state_changed_at", "enrolled_at", "last_seen_at",
    )  # fmt: skip
    readonly_fields = ("id", "status")
    inlines = (DeviceKeyInline,)
    actions = ("suspend_selected", "resume_selected", "revoke_selected")
    actions_detail = ("suspend", "resume", "revoke")


@admin.register(Session)
class SessionAdmin(ReadOnlyAdmin):
    """Handshakes and sessions; the wrapped chain is never shown."""

    status = state_column(stored_state, ordering="state")

    list_display = ("id", "device", "status", "suite", "requests", "transfer_bytes", "challenged_at", "end_reason")
    list_filter = ("state", "suite", "end_reason")
    list_select_related = ("device",)
    search_fields = ("device__name", "id")
    date_hierarchy = "challenged_at"
    fields = (
        "id", "device", "suite", "status", "end_reason", "first_epoch", "epoch", "highest_sequence", "requests",
        "transfer_bytes", "challenged_at", "activated_at", "expires_at", "ended_at",
    )  # fmt: skip
    readonly_fields = ("id", "status")
