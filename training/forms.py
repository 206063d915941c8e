"""What an operator states to put off a deadline, to go back to an earlier version, and to schedule rounds."""

from typing import Any

from django import forms

from operator_admin.forms import IntegerWidget, NumberWidget, ReasonForm, SwitchWidget, TextWidget
from training.services.schedules import MAX_IDLE_DEVICES
from training.terms import MAX_EXTENSION_SECONDS


class ExtensionForm(ReasonForm):
    """How long, and why."""

    minutes = forms.IntegerField(
        min_value=1,
        max_value=MAX_EXTENSION_SECONDS // 60,
        initial=60,
        widget=IntegerWidget,
        help_text="How much longer.",
    )


class RollBackForm(ReasonForm):
    """To which version, whether training goes on from it, and why."""

    number = forms.IntegerField(
        min_value=0, max_value=2**31 - 1, widget=IntegerWidget, help_text="The number of an earlier version."
    )
    continue_training = forms.BooleanField(
        required=False,
        widget=SwitchWidget,
        help_text="The next round starts from it, without the histories and momentum carried so far.",
    )


class ScheduleForm(forms.Form):
    """When rounds open by themselves: one way, or none."""

    minutes = forms.FloatField(
        required=False, min_value=1 / 60, max_value=525_600, widget=NumberWidget, help_text="At this interval."
    )
    crontab = forms.CharField(
        required=False,
        max_length=100,
        widget=TextWidget,
        help_text="By these five fields, in UTC: minute, hour, day of month, month, day of week, such as 0 2 * * *.",
    )
    idle_devices = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=MAX_IDLE_DEVICES,
        widget=IntegerWidget,
        help_text="When so many are idle.",
    )

    def clean(self) -> dict[str, Any]:
        """Refuse two ways at once."""
        cleaned: dict[str, Any] = super().clean() or {}
        if sum(bool(cleaned.get(name)) for name in ("minutes", "crontab", "idle_devices")) > 1:
            raise forms.ValidationError("Give one of them, or none: then rounds are opened by hand.")
        return cleaned
