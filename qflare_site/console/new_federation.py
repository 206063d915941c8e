"""Creating a federation in the browser, anew or as a clone of one: model, terms and policy."""

import uuid
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import messages
from django.core.validators import validate_slug
from django.db import transaction
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils import timezone

from devices.labels import labels_as_text, parse_labels
from operator_admin.actions import Wish, action_by_name, ask_second_person, takes_two
from operator_admin.fresh_sign_in import needs_fresh_sign_in
from operator_admin.operations import actor_of
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.errors import Refusal
from qflare_site.console.pages import console_page, show
from qflare_site.console.policy_form import PolicyForm
from training.models import Federation
from training.services.federations import create_federation, pause_federation
from training.services.round_sources import load_model
from training.terms import Mode, Selection, Terms, terms_of

LARGEST_MODEL_BYTES = 256 * 1024 * 1024
"""Read into memory in a web process; a larger one is for `manage.py create_federation`."""

UNSHOWN_POLICY = (
    "Its policy names a part twice, which the editor cannot show: clone it with manage.py create_federation --policy."
)


class FederationForm(forms.Form):
    """What a federation is, besides its policy."""

    name = forms.CharField(
        max_length=100, validators=[validate_slug], help_text="Letters, digits, dashes, underscores."
    )
    group = forms.CharField(max_length=100, required=False, help_text="Devices of this group take part. Empty: all.")
    model = forms.FileField(
        label="Initial model",
        required=False,
        help_text="A safetensors file, at most 256 MiB here. Write it with: "
        "qflare-edge initial-model --trainer MODULE:CLASS --output FILE",
    )
    trainer = forms.CharField(max_length=200, help_text="The training code that devices run, as module:Class.")
    trainer_parameters = forms.JSONField(
        required=False, initial=dict, widget=forms.Textarea({"rows": 2}), help_text="Its parameters, as a JSON object."
    )
    evaluator = forms.CharField(
        max_length=200, required=False, help_text="Evaluates each version on the enclave host, as module:Class."
    )
    round_minutes = forms.FloatField(
        min_value=1 / 60, max_value=525_600, initial=60, help_text="How long a round waits."
    )
    planned_rounds = forms.IntegerField(
        min_value=1, max_value=2**31 - 1, required=False, help_text="It ends after so many rounds. Empty: never."
    )
    mode = forms.ChoiceField(choices=Mode.choices)
    selection = forms.ChoiceField(choices=Selection.choices, help_text="Whom a round invites.")
    selection_fraction = forms.FloatField(
        min_value=0, max_value=1, required=False, help_text="How much of the fleet, where there is no target."
    )
    selection_labels = forms.CharField(
        max_length=500, required=False, help_text="A device must bear all of these: name=value, separated by spaces."
    )
    target_updates = forms.IntegerField(
        min_value=1,
        max_value=1_000_000,
        required=False,
        help_text="A round closes with so many. Empty: of all invited.",
    )
    over_selection = forms.FloatField(
        min_value=1, max_value=10, initial=1, help_text="How many times the target is invited, for stragglers."
    )
    privacy_budget_epsilon = forms.FloatField(
        min_value=0, required=False, help_text="No round is opened that would spend more. Needs noise in the policy."
    )
    privacy_delta = forms.FloatField(
        min_value=0, max_value=1, required=False, help_text="The delta at which epsilon is stated."
    )

    def clean_model(self) -> bytes | None:
        """Return the file's bytes; one that is too large here is refused before it is read."""
        file = self.cleaned_data["model"]
        if file is None:
            return None
        if file.size > LARGEST_MODEL_BYTES:
            raise forms.ValidationError("It has more than 256 MiB. Create the federation with manage.py there.")
        return bytes(file.read())

    def clean_trainer_parameters(self) -> dict[str, Any]:
        """Return the parameters; none are an empty object."""
        value = self.cleaned_data["trainer_parameters"] or {}
        if not isinstance(value, dict):
            raise forms.ValidationError("The parameters are a JSON object.")
        return value

    def terms(self, begun_with: Terms) -> Terms:
        """Return the terms of a valid form; what it does not ask for stays as begun with. Raises `Refusal`."""
        given = self.cleaned_data
        return replace(
            begun_with,
            mode=given["mode"],
            selection=given["selection"],
            selection_fraction=given["selection_fraction"],
            selection_labels=parse_labels(given["selection_labels"].split()),
            target_updates=given["target_updates"],
            over_selection=given["over_selection"],
        )


@console_page("training.add_federation", methods=("GET", "HEAD", "POST"))
@needs_fresh_sign_in
def create(request: HttpRequest) -> HttpResponseBase:
    """Answer `/federations/new`, with `?clone=<id>` for one like another that starts from its current model."""
    source = _source(request)
    begun_with = source.aggregation_policy() if source else AggregationPolicy()
    posted, files = (request.POST, request.FILES) if request.method == "POST" else (None, None)
    form = FederationForm(posted, files, initial=_initial(source))
    policy = PolicyForm(posted, begun_with=begun_with)
    if policy.cannot_show:
        messages.error(request, UNSHOWN_POLICY)
        return redirect("console:federation", source.id)
    if posted is not None and form.is_valid() and policy.is_valid():
        try:
            with transaction.atomic():
                federation = _create(form, policy, source, actor_of(request))
                _hold_back(request, federation)
        except Refusal as refusal:
            form.add_error(None, refusal.detail)
        else:
            return redirect("console:federation", federation.id)
    trail = [("Federations", reverse("console:federations"))]
    title = f"Clone {source}" if source else "New federation"
    context = {"form": form, "policy": policy, "source": source, "kept": _kept(source)}
    return show(request, "console/new_federation.html", title=title, trail=trail, **context)


def _hold_back(request: HttpRequest, federation: Federation) -> None:
    """Open no round of it before another person has seen its policy, where that takes two."""
    if takes_two("policy"):
        pause_federation(federation.pk, actor=actor_of(request))
        begin = action_by_name("training.federation.resume")
        messages.info(request, ask_second_person(request, Wish(begin, str(federation.pk), federation.name, {})))


def _kept(source: Federation | None) -> list[tuple[str, Any]]:
    """Return the terms of the source that the form does not ask for and a clone keeps, where they say something."""
    if source is None:
        return []
    terms, usual = terms_of(source), Terms()
    names = [one.name for one in fields(Terms) if one.name not in FederationForm.base_fields]
    return [(name, getattr(terms, name)) for name in names if getattr(terms, name) != getattr(usual, name)]


def _source(request: HttpRequest) -> Federation | None:
    text = request.GET.get("clone", "")
    if not text:
        return None
    try:
        return get_object_or_404(Federation.objects.select_related("current_version"), pk=uuid.UUID(text))
    except ValueError:
        return None


def _initial(source: Federation | None) -> dict[str, Any]:
    if source is None:
        return {"trainer_parameters": {}}
    copied = (
        "group", "trainer", "trainer_parameters", "evaluator", "planned_rounds", "mode", "selection",
        "selection_fraction", "target_updates", "over_selection", "privacy_budget_epsilon", "privacy_delta",
    )  # fmt: skip
    return {name: getattr(source, name) for name in copied} | {
        "round_minutes": source.round_seconds / 60,
        "selection_labels": labels_as_text(source.selection_labels),
    }


def _create(form: FederationForm, policy: PolicyForm, source: Federation | None, actor: str) -> Federation:
    given = form.cleaned_data
    model = given["model"]
    if model is None:
        if source is None or source.current_version is None:
            raise Refusal("conflict", "Choose the file of the initial model.")
        model = load_model(source.current_version)
    return create_federation(
        given["name"],
        initial_model=model,
        trainer=given["trainer"],
        policy=policy.policy(),
        actor=actor,
        now=timezone.now(),
        group=given["group"],
        trainer_parameters=given["trainer_parameters"],
        evaluator=given["evaluator"],
        round_time=timedelta(minutes=given["round_minutes"]),
        planned_rounds=given["planned_rounds"],
        privacy_budget_epsilon=given["privacy_budget_epsilon"],
        privacy_delta=given["privacy_delta"],
        terms=form.terms(terms_of(source) if source else Terms()),
    )
