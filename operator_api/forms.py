"""What an operator states to create an API key."""

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from django import forms
from django.core.validators import validate_slug

from operator_admin.forms import CheckboxesWidget, IntegerWidget, TextWidget
from operator_api.scopes import READING, Scope
from operator_api.services import MAX_LIFETIME, MAX_NAME_LENGTH


class CreateKeyForm(forms.Form):
    """Name, scopes and lifetime; there are only the scopes that are `grantable`."""

    name = forms.CharField(
        max_length=MAX_NAME_LENGTH,
        validators=[validate_slug],
        widget=TextWidget,
        help_text="What it is for, such as nightly-report; the audit log names whoever uses the key by this.",
    )
    scopes = forms.MultipleChoiceField(
        choices=[(scope.value, f"{scope.label} ({scope.value})") for scope in Scope],
        initial=READING,
        widget=CheckboxesWidget,
    )
    days = forms.IntegerField(
        label="Lifetime in days", min_value=1, max_value=MAX_LIFETIME.days, initial=90, widget=IntegerWidget
    )

    def __init__(self, *args: Any, grantable: Collection[str] = READING, **named: Any) -> None:
        super().__init__(*args, **named)
        scopes: Any = self.fields["scopes"]
        scopes.choices = [choice for choice in scopes.choices if choice[0] in grantable]

    @property
    def lifetime(self) -> timedelta:
        """The lifetime of a valid form."""
        return timedelta(days=self.cleaned_data["days"])
