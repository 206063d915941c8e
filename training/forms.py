"""What an operator states to put off a round's deadline."""

from django import forms

from operator_admin.forms import IntegerWidget, ReasonForm
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
