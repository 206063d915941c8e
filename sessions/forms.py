"""What an operator states to set a group's QKD policy and the labels of devices."""

from django import forms

from devices.labels import parse_labels
from operator_admin.forms import SelectWidget, TextAreaWidget, TextWidget
from qflare_protocol.errors import Refusal
from qflare_protocol.qkd.policy import QkdUse
from sessions.models import QkdPolicy


class QkdPolicyForm(forms.Form):
    """Group and policy."""

    group = forms.CharField(
        required=False,
        max_length=QkdPolicy._meta.get_field("group").max_length,
        widget=TextWidget,
        help_text="The devices' group; empty for devices without one.",
    )
    policy = forms.ChoiceField(
        choices=[(use.value, use.value.capitalize()) for use in QkdUse],
        widget=SelectWidget,
        help_text="Preferred: a QKD key where one can be had. Required: no session without one.",
    )


class LabelsForm(forms.Form):
    """Labels, one on a line."""

    labels = forms.CharField(
        required=False,
        widget=TextAreaWidget({"rows": 4}),
        help_text="NAME=VALUE, one on each line; empty takes all labels away.",
    )

    def clean_labels(self) -> dict[str, str]:
        """Return the labels as a map."""
        lines = [line for line in self.cleaned_data["labels"].splitlines() if line.strip()]
        try:
            return parse_labels(lines)
        except Refusal as refusal:
            raise forms.ValidationError(refusal.detail) from refusal
