"""What is asked before people's access is changed."""

from typing import Any

from django import forms

from operator_access.roles import MEANINGS, Role
from operator_admin.forms import CheckboxesWidget, ReasonForm


class RolesForm(ReasonForm):
    """The roles that a person has from then on."""

    roles = forms.MultipleChoiceField(
        choices=[(role.value, f"{role.value}: {MEANINGS[role]}") for role in Role],
        required=False,
        widget=CheckboxesWidget,
        help_text="Without any the person sees nothing.",
    )
    field_order = ("roles", "reason")

    def clean_roles(self) -> list[Any]:
        """Return the roles."""
        return [Role(name) for name in self.cleaned_data["roles"]]
