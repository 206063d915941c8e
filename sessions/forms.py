"""What an operator states to set a group's QKD policy."""

from django import forms

from operator_admin.forms import SelectWidget, TextWidget
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
