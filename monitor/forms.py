"""What an operator states about incidents, rules and channels."""

from datetime import timedelta
from typing import Any

from django import forms

from monitor.models import ChannelKind, NotificationChannel, RuleSetting
from monitor.rules import Rule
from monitor.terms import Action, Severity, Terms
from operator_admin.forms import (
    MAX_REASON_LENGTH,
    CheckboxesWidget,
    IntegerWidget,
    NumberWidget,
    ReasonForm,
    SelectWidget,
    SwitchWidget,
    TextAreaWidget,
    TextWidget,
)


class NoteForm(forms.Form):
    """A note, kept in the timeline and in the audit log."""

    note = forms.CharField(
        max_length=MAX_REASON_LENGTH,
        widget=TextAreaWidget({"rows": 3}),
        help_text="Kept in the timeline and in the audit log with your name.",
    )


class TuneRuleForm(ReasonForm):
    """The terms of one rule; the responses offered are those that it can have."""

    enabled = forms.BooleanField(required=False, widget=SwitchWidget)
    threshold = forms.FloatField(min_value=0.001, widget=NumberWidget)
    window_seconds = forms.IntegerField(
        min_value=1, widget=IntegerWidget, help_text="How far apart the findings of one incident may lie."
    )
    severity = forms.ChoiceField(choices=Severity.choices, widget=SelectWidget)
    responses = forms.MultipleChoiceField(
        required=False, widget=CheckboxesWidget, help_text="What is done when an incident opens."
    )
    cool_down_seconds = forms.IntegerField(
        min_value=0, widget=IntegerWidget, help_text="After an incident is closed, none opens for so long."
    )

    field_order = ("enabled", "threshold", "window_seconds", "severity", "responses", "cool_down_seconds", "reason")

    def __init__(self, rule: Rule, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["threshold"].help_text = f"Of {rule.threshold_means}."
        self.fields["responses"].choices = [(action.value, action.label) for action in rule.responses]

    @staticmethod
    def initial_of(setting: RuleSetting) -> dict[str, Any]:
        """Return what the form shows first: the terms as they are."""
        names = ("enabled", "threshold", "window_seconds", "severity", "responses", "cool_down_seconds")
        return {name: getattr(setting, name) for name in names}

    @property
    def terms(self) -> Terms:
        """The terms of a valid form."""
        return Terms(
            threshold=self.cleaned_data["threshold"],
            window=timedelta(seconds=self.cleaned_data["window_seconds"]),
            severity=Severity(self.cleaned_data["severity"]),
            responses=tuple(Action(name) for name in self.cleaned_data["responses"]),
            cool_down=timedelta(seconds=self.cleaned_data["cool_down_seconds"]),
        )


class ChannelForm(forms.Form):
    """Name, kind, address and least severity of a new channel."""

    name = forms.SlugField(max_length=NotificationChannel._meta.get_field("name").max_length, widget=TextWidget)
    kind = forms.ChoiceField(choices=ChannelKind.choices, widget=SelectWidget)
    address = forms.CharField(
        max_length=NotificationChannel._meta.get_field("address").max_length,
        widget=TextWidget,
        help_text="An e-mail address, or a webhook's URL. It is kept out of the audit log.",
    )
    least_severity = forms.ChoiceField(
        choices=Severity.choices,
        initial=Severity.WARNING,
        widget=SelectWidget,
        help_text="Incidents below this severity are not told here.",
    )
