"""What an operator states to put off a round's deadline, and to go back to an earlier version."""

from django import forms

from operator_admin.forms import IntegerWidget, ReasonForm, SwitchWidget
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
