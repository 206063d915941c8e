"""Sessions of devices, and devices themselves with the verbs that end their sessions."""

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from devices import services as devices
from devices.admin import DeviceKeyInline
from devices.models import Device
from operator_admin.actions import Action, Wish, ask_second_person, data_of, register_action, takes_two
from operator_admin.base import ReadOnlyAdmin
from operator_admin.columns import state_column, stored_state
from operator_admin.decorators import action
from operator_admin.forms import ReasonForm
from operator_admin.fresh_sign_in import needs_fresh_sign_in
from operator_admin.operations import DANGER, Answers, Operation, actor_of, on_one, on_selected
from qflare_protocol.errors import Refusal
from sessions import services
from sessions.forms import LabelsForm, QkdPolicyForm
from sessions.models import QkdPolicy, Session
from sessions.qkd import set_qkd_policy


def _suspend(device: Device, actor: str, answers: Answers) -> str:
    services.suspend_device(device.pk, reason=answers["reason"], actor=actor, now=timezone.now())
    return f"{device} is suspended and its sessions have ended."


def _resume(device: Device, actor: str, answers: Answers) -> str:
    devices.resume_device(device.pk, reason=answers["reason"], actor=actor, now=timezone.now())
    return f"{device} may work again."


def _revoke(device: Device, actor: str, answers: Answers) -> str:
    services.revoke_device(device.pk, reason=answers["reason"], actor=actor, now=timezone.now())
    return f"{device} is revoked and its sessions have ended."


def _demand_new_keys(device: Device, actor: str, answers: Answers) -> str:
    devices.demand_key_rotation(device.pk, reason=answers["reason"], actor=actor, now=timezone.now())
    return f"{device} has to register new keys."


def _label(device: Device, actor: str, answers: Answers) -> str:
    devices.set_device_labels(device.pk, answers["labels"], actor=actor)
    return f"{device} has its labels."


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
    "Its sessions end at once and its keys are never accepted again. To come back, the device needs a token that "
    "was issued for it, and makes new keys.",
    _revoke,
    ReasonForm,
    DANGER,
    permission="end",
    sensitive=True,
    second_person="revoke",
)
DEMAND_NEW_KEYS = Operation(
    "demand_new_keys",
    "Demand new keys",
    "From its next request on it has to register new keys before it may do anything else. Its old ones stay valid "
    "for the overlap, so this is no answer to stolen keys: revoke the device then.",
    _demand_new_keys,
    ReasonForm,
)
LABEL = Operation(
    "label",
    "Label",
    "It has these labels from then on and no others. Rounds that are created later choose by them.",
    _label,
    LabelsForm,
)


@admin.register(Device)
class DeviceAdmin(ReadOnlyAdmin):
    """Devices are registered here and not in their own app, because suspending one reaches its sessions."""

    status = state_column(stored_state, ordering="state")
    suspend, suspend_selected = on_one(SUSPEND), on_selected(SUSPEND)
    resume, resume_selected = on_one(RESUME), on_selected(RESUME)
    revoke, revoke_selected = on_one(REVOKE), on_selected(REVOKE)
    demand_new_keys, demand_new_keys_selected = on_one(DEMAND_NEW_KEYS), on_selected(DEMAND_NEW_KEYS)

    label, label_selected = on_one(LABEL), on_selected(LABEL)

    list_display = ("name", "group", "status", "suite", "last_seen_at", "enrolled_at", "state_reason")
    list_filter = ("state", "group", "suite")
    search_fields = ("name", "group", "state_reason", "id")
    date_hierarchy = "enrolled_at"
    fields = (
        "id", "name", "group", "labels", "suite", "status", "state_reason", "state_changed_at", "enrolled_at",
        "last_seen_at", "keys_due_at",
    )  # fmt: skip
    readonly_fields = ("id", "status")
    inlines = (DeviceKeyInline,)
    actions = (
        "suspend_selected", "resume_selected", "label_selected", "demand_new_keys_selected", "revoke_selected",
    )  # fmt: skip
    actions_detail = ("suspend", "resume", "label", "demand_new_keys", "revoke")


@admin.register(Session)
class SessionAdmin(ReadOnlyAdmin):
    """Handshakes and sessions; the wrapped chain is never shown."""

    status = state_column(stored_state, ordering="state")

    list_display = (
        "id",
        "device",
        "status",
        "suite",
        "qkd",
        "generation",
        "requests",
        "transfer_bytes",
        "challenged_at",
        "end_reason",
    )
    list_filter = ("state", "suite", "end_reason")
    list_select_related = ("device",)
    search_fields = ("device__name", "id")
    date_hierarchy = "challenged_at"
    fields = (
        "id", "device", "suite", "key_version", "qkd", "status", "end_reason", "generation", "first_epoch", "epoch",
        "highest_sequence", "requests", "transfer_bytes", "challenged_at", "activated_at", "expires_at", "ended_at",
    )  # fmt: skip
    readonly_fields = ("id", "status")


def _set_policy(_target: str, form: forms.Form, actor: str) -> str:
    row = set_qkd_policy(**form.cleaned_data, actor=actor, now=timezone.now())
    return f"{row}: this holds from the next handshake on."


SET_QKD_POLICY = register_action(
    Action(
        name="sessions.set_qkd_policy",
        subject="policy",
        label="Set the QKD policy",
        consequence="It holds from the next handshake on; sessions that are open go on as they are.",
        form=lambda _target, data: QkdPolicyForm(data),
        perform=_set_policy,
        permitted=lambda user, _target: user.has_perm("device_sessions.change_qkdpolicy"),
    )
)


def _set_or_ask(request: HttpRequest, form: QkdPolicyForm) -> str:
    if not takes_two(SET_QKD_POLICY.subject):
        return _set_policy("", form, actor_of(request))
    group = form.cleaned_data["group"]
    wish = Wish(SET_QKD_POLICY, group, group or "devices without a group", data_of(request.POST, form))
    return ask_second_person(request, wish)


@admin.register(QkdPolicy)
class QkdPolicyAdmin(ReadOnlyAdmin):
    """Which device groups have QKD keys in their sessions; `Set a policy` states it for a group, listed or not."""

    list_display = ("__str__", "group", "policy", "changed_at")
    list_filter = ("policy",)
    search_fields = ("group",)
    fields = ("group", "policy", "changed_at")
    actions_list = ("set_policy",)

    @action(description="Set a policy", url_path="set", permissions=["operate"])
    @needs_fresh_sign_in
    def set_policy(self, request: HttpRequest) -> HttpResponse:
        """Ask for group and policy, and set it on a POST."""
        form = QkdPolicyForm(request.POST or None)
        if not form.is_valid():
            common = {**self.admin_site.each_context(request), "title": "Set a QKD policy", "opts": self.opts}
            return TemplateResponse(request, "operator_admin/set_qkd_policy.html", common | {"form": form})
        try:
            self.message_user(request, _set_or_ask(request, form), messages.SUCCESS)
        except Refusal as refusal:
            self.message_user(request, refusal.detail, messages.ERROR)
        return redirect(reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist"))
