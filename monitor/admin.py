"""Incidents with their story and answers, rules to tune, and who is told."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from monitor import terms
from monitor.forms import ChannelForm, NoteForm, TuneRuleForm
from monitor.models import Delivery, Incident, NotificationChannel, Response, RuleSetting, Sighting, TimelineEntry
from monitor.rules import RULES
from monitor.services import incidents
from monitor.services.channels import create_channel, renew_secret, switch_channel
from monitor.services.responses import undo_response
from monitor.services.tuning import tune_rule
from operator_admin.actions import Action, Wish, ask_second_person, data_of, register_action, takes_two
from operator_admin.base import ReadOnlyAdmin, ReadOnlyInline
from operator_admin.columns import state_column, stored_state
from operator_admin.decorators import action, display
from operator_admin.forms import ReasonForm
from operator_admin.fresh_sign_in import needs_fresh_sign_in
from operator_admin.operations import Answers, Operation, actor_of, on_one, on_selected
from qflare_protocol.errors import Refusal


def _acknowledge(incident: Incident, actor: str, answers: Answers) -> str:
    incidents.acknowledge(incident.pk, actor=actor, now=timezone.now())
    return f"{incident}: acknowledged."


def _assign_to_me(incident: Incident, actor: str, answers: Answers) -> str:
    incidents.assign(incident.pk, actor, actor=actor, now=timezone.now())
    return f"{incident}: assigned to you."


def _note(incident: Incident, actor: str, answers: Answers) -> str:
    incidents.add_note(incident.pk, answers["note"], actor=actor, now=timezone.now())
    return f"{incident}: noted."


def _close(incident: Incident, actor: str, answers: Answers) -> str:
    incidents.close_incident(incident.pk, note=answers["note"], actor=actor, now=timezone.now())
    return f"{incident}: closed."


def _undo(response: Response, actor: str, answers: Answers) -> str:
    undo_response(response.pk, reason=answers["reason"], actor=actor, now=timezone.now())
    return f"{response}: undone."


def _resumes_a_federation(response: Response) -> bool:
    return response.action == terms.Action.PAUSE_FEDERATION


def _switch_on(channel: NotificationChannel, actor: str, answers: Answers) -> str:
    switch_channel(channel.name, enabled=True, actor=actor, now=timezone.now())
    return f"{channel} is told of incidents again."


def _switch_off(channel: NotificationChannel, actor: str, answers: Answers) -> str:
    switch_channel(channel.name, enabled=False, actor=actor, now=timezone.now())
    return f"{channel} is told nothing any more."


ACKNOWLEDGE = Operation("acknowledge", "Acknowledge", "It says that you look into it.", _acknowledge)
ASSIGN_TO_ME = Operation("assign_to_me", "Assign to me", "It says that it is yours.", _assign_to_me)
NOTE = Operation("note", "Write a note", "It becomes part of the timeline.", _note, NoteForm)
CLOSE = Operation(
    "close",
    "Close",
    "Nothing more is added to it. The rule opens another one about the same subject when it finds enough anew, and "
    "not before it has cooled down. What was done in answer stays done: undo it on the responses' pages.",
    _close,
    NoteForm,
)
UNDO = Operation(
    "undo",
    "Undo",
    "The device works again, the federation opens rounds again, or the demand for new keys is withdrawn. Sessions "
    "that have ended and messages that were sent stay so.",
    _undo,
    ReasonForm,
    second_person="policy",
    held_back=_resumes_a_federation,
)
SWITCH_ON = Operation("switch_on", "Switch on", "It is told of incidents from now on.", _switch_on)
SWITCH_OFF = Operation(
    "switch_off", "Switch off", "It is told nothing until it is switched on; what waits for it waits on.", _switch_off
)


def _severity(row: Any) -> tuple[str, str]:
    return row.severity, row.get_severity_display()


class TimelineInline(ReadOnlyInline):
    """What happened, in its order."""

    model = TimelineEntry
    fields = readonly_fields = ("at", "actor", "text")


class ResponseInline(ReadOnlyInline):
    """What was done; each has a page on which it is undone."""

    model = Response
    status = state_column(stored_state)
    fields = readonly_fields = ("action", "target", "status", "detail", "carried_out_at", "undone_at")
    show_change_link = True


class SightingInline(ReadOnlyInline):
    """The events, newest first."""

    model = Sighting
    per_page = 50
    fields = readonly_fields = ("occurred_at", "event_kind", "event_actor", "description")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Sighting]:
        """Fetch the events along with the rows."""
        return super().get_queryset(request).select_related("event")

    @display(description="Kind")
    def event_kind(self, sighting: Sighting) -> str:
        """The kind of the event."""
        return sighting.event.kind

    @display(description="Actor")
    def event_actor(self, sighting: Sighting) -> str:
        """Who did it."""
        return sighting.event.actor

    @display(description="What happened")
    def description(self, sighting: Sighting) -> str:
        """The event in words."""
        return sighting.event.description


class DeliveryInline(ReadOnlyInline):
    """Who was told."""

    model = Delivery
    status = state_column(stored_state)
    fields = readonly_fields = ("channel", "status", "attempts", "next_attempt_at", "last_error", "finished_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Delivery]:
        """Fetch the channels along with the rows."""
        return super().get_queryset(request).select_related("channel", "incident")


@admin.register(Incident)
class IncidentAdmin(ReadOnlyAdmin):
    """Incidents, newest first."""

    status = state_column(stored_state, ordering="state")
    severity_shown = state_column(_severity, ordering="severity", description="Severity")
    acknowledge, acknowledge_selected = on_one(ACKNOWLEDGE), on_selected(ACKNOWLEDGE)
    assign_to_me, assign_to_me_selected = on_one(ASSIGN_TO_ME), on_selected(ASSIGN_TO_ME)
    close, close_selected = on_one(CLOSE), on_selected(CLOSE)
    note = on_one(NOTE)

    list_display = (
        "__str__", "severity_shown", "status", "event_count", "assignee", "opened_at", "last_event_at",
    )  # fmt: skip
    list_filter = ("state", "severity", "rule", "subject_kind")
    search_fields = ("rule", "subject_name", "assignee", "closing_note", "id")
    date_hierarchy = "opened_at"
    fields = (
        "id", "rule", "sentence", "subject_kind", "subject_name", "severity_shown", "status", "opened_at",
        "last_event_at", "event_count", "assignee", "closed_at", "closing_note",
    )  # fmt: skip
    readonly_fields = ("id", "sentence", "severity_shown", "status")
    inlines = (TimelineInline, ResponseInline, DeliveryInline, SightingInline)
    actions = ("acknowledge_selected", "assign_to_me_selected", "close_selected")
    actions_detail = ("acknowledge", "assign_to_me", "note", "close")

    @display(description="What the rule says")
    def sentence(self, incident: Incident) -> str:
        """The rule in a sentence."""
        return RULES[incident.rule].sentence if incident.rule in RULES else "-"


@admin.register(Response)
class ResponseAdmin(ReadOnlyAdmin):
    """What was done in answer to incidents, and how to take it back."""

    status = state_column(stored_state, ordering="state")
    undo = on_one(UNDO)

    list_display = ("__str__", "incident", "status", "detail", "carried_out_at", "undone_at")
    list_filter = ("state", "action")
    list_select_related = ("incident",)
    search_fields = ("target", "incident__rule", "detail")
    date_hierarchy = "carried_out_at"
    fields = ("incident", "action", "target", "status", "detail", "carried_out_at", "undone_at")
    readonly_fields = ("status",)
    actions_detail = ("undo",)


def _tune(rule: str, form: Any, actor: str) -> str:
    enabled, reason = form.cleaned_data["enabled"], form.cleaned_data["reason"]
    tune_rule(rule, form.terms, enabled=enabled, reason=reason, actor=actor, now=timezone.now())
    return f"{rule} is tuned; this holds for what is found from now on."


TUNE = register_action(
    Action(
        name="monitor.tune",
        subject="policy",
        label="Tune the rule",
        consequence="It holds for what is found from then on.",
        form=lambda rule, data: TuneRuleForm(RULES[rule], data),
        perform=_tune,
        permitted=lambda user, _rule: user.has_perm("monitor.change_rulesetting"),
    )
)


@admin.register(RuleSetting)
class RuleSettingAdmin(ReadOnlyAdmin):
    """Every rule with its terms; `Tune` changes them."""

    severity_shown = state_column(_severity, ordering="severity", description="Severity")

    list_display = ("rule", "sentence", "enabled", "threshold", "window_seconds", "severity_shown", "responses")
    list_filter = ("enabled", "severity")
    search_fields = ("rule",)
    fields = (
        "rule", "sentence", "threshold_means", "possible", "enabled", "threshold", "window_seconds", "severity_shown",
        "responses", "cool_down_seconds", "changed_at", "changed_by",
    )  # fmt: skip
    readonly_fields = ("sentence", "threshold_means", "possible", "severity_shown")
    actions_detail = ("tune",)

    @display(description="What it says")
    def sentence(self, setting: RuleSetting) -> str:
        """The rule in a sentence."""
        return RULES[setting.rule].sentence if setting.rule in RULES else "A rule of another release."

    @display(description="What the threshold is of")
    def threshold_means(self, setting: RuleSetting) -> str:
        """What the threshold counts or measures."""
        return RULES[setting.rule].threshold_means if setting.rule in RULES else "-"

    @display(description="Responses it can have")
    def possible(self, setting: RuleSetting) -> str:
        """What its policy may name; of what anybody on the network can bring about, people are told and no more."""
        return ", ".join(RULES[setting.rule].responses) if setting.rule in RULES else "-"

    @action(description="Tune", url_path="tune", permissions=["operate"])
    @needs_fresh_sign_in
    def tune(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask for the terms and the reason, and change them on a POST."""
        setting = self.get_object(request, object_id)
        if setting is None or setting.rule not in RULES:
            raise Http404
        form = TuneRuleForm(setting.definition, request.POST or None, initial=TuneRuleForm.initial_of(setting))
        if form.is_valid() and self._tuned(request, setting, form):
            return redirect(reverse("admin:monitor_rulesetting_change", args=(setting.pk,)))
        context = {"form": form, "sentence": setting.definition.sentence, "button": "Tune"}
        return _page(self, request, f"Tune {setting.rule}", "operator_admin/ask.html", **context)

    def _tuned(self, request: HttpRequest, setting: RuleSetting, form: TuneRuleForm) -> bool:
        try:
            if takes_two(TUNE.subject):
                told = ask_second_person(request, Wish(TUNE, setting.pk, setting.rule, data_of(request.POST, form)))
            else:
                told = _tune(setting.rule, form, actor_of(request))
        except Refusal as refusal:
            self.message_user(request, refusal.detail, messages.ERROR)
            return False
        self.message_user(request, told)
        return True


@admin.register(NotificationChannel)
class NotificationChannelAdmin(ReadOnlyAdmin):
    """Who is told. A webhook's secret is shown once, when it is made."""

    switch_on, switch_off = on_one(SWITCH_ON), on_one(SWITCH_OFF)

    list_display = ("name", "kind", "least_severity", "enabled", "created_at")
    list_filter = ("kind", "least_severity", "enabled")
    search_fields = ("name",)
    fields = ("name", "kind", "address", "least_severity", "enabled", "created_at")
    actions_list = ("make",)
    actions_detail = ("renew_secret", "switch_on", "switch_off")

    @action(description="Make a channel", url_path="make", permissions=["issue"])
    @needs_fresh_sign_in
    def make(self, request: HttpRequest) -> HttpResponse:
        """Ask for the terms; answer the POST with a webhook's secret, this once."""
        form = ChannelForm(request.POST or None)
        if form.is_valid():
            try:
                channel, secret = create_channel(**form.cleaned_data, actor=actor_of(request), now=timezone.now())
            except Refusal as refusal:
                self.message_user(request, refusal.detail, messages.ERROR)
            else:
                return self._made(request, channel, secret)
        sentence = "A webhook's messages are signed; its secret is shown once, on the next page."
        context = {"form": form, "sentence": sentence, "button": "Make"}
        return _page(self, request, "Make a channel", "operator_admin/ask.html", **context)

    @action(description="New secret", url_path="renew_secret", permissions=["operate"])
    @needs_fresh_sign_in
    def renew_secret(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask first; answer the POST with the new secret, this once."""
        channel = self.get_object(request, object_id)
        if channel is None:
            raise Http404
        if request.method == "POST":
            try:
                secret = renew_secret(channel.name, actor=actor_of(request), now=timezone.now())
            except Refusal as refusal:
                self.message_user(request, refusal.detail, messages.ERROR)
                return redirect(reverse("admin:monitor_notificationchannel_change", args=(channel.pk,)))
            return self._made(request, channel, secret)
        sentence = "Messages are signed with the new secret at once; the receiver has to know it."
        context = {"form": (), "sentence": sentence, "button": "New secret"}
        return _page(self, request, f"New secret for {channel}", "operator_admin/ask.html", **context)

    def _made(self, request: HttpRequest, channel: NotificationChannel, secret: str | None) -> HttpResponse:
        if secret is None:
            self.message_user(request, f"{channel} is told of incidents.", messages.SUCCESS)
            return redirect(reverse("admin:monitor_notificationchannel_changelist"))
        context = {"channel": channel, "secret": secret}
        answer = _page(self, request, f"Secret of {channel}", "operator_admin/webhook_secret.html", **context)
        answer["Cache-Control"] = "no-store"
        answer["Referrer-Policy"] = "no-referrer"
        return answer


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    """Messages to channels, and how often they were tried."""

    status = state_column(stored_state, ordering="state")

    list_display = ("incident", "channel", "status", "attempts", "next_attempt_at", "last_error", "finished_at")
    list_filter = ("state", "channel")
    list_select_related = ("incident", "channel")
    search_fields = ("channel__name", "incident__rule", "incident__subject_name")
    date_hierarchy = "next_attempt_at"
    fields = (
        "id", "incident", "channel", "status", "attempts", "next_attempt_at", "last_error", "finished_at", "body",
    )  # fmt: skip
    readonly_fields = ("id", "status")


def _page(
    page_of: ReadOnlyAdmin, request: HttpRequest, title: str, template: str, **context: object
) -> TemplateResponse:
    common = {**page_of.admin_site.each_context(request), "title": title, "opts": page_of.opts}
    return TemplateResponse(request, template, common | context)
