"""What a second person states."""

from typing import Any

from django import forms

from operator_admin.forms import MAX_REASON_LENGTH

DECISIONS = ("approve", "refuse", "withdraw")


class DecisionForm(forms.Form):
    """The remark, and which button was pressed."""

    remark = forms.CharField(
        max_length=MAX_REASON_LENGTH,
        required=False,
        widget=forms.Textarea({"rows": 3}),
        help_text="Kept in the audit log with your name.",
    )
    decision = forms.ChoiceField(choices=[(one, one) for one in DECISIONS], widget=forms.HiddenInput)

    @property
    def asks(self) -> forms.BoundField:
        """The one field that is filled in; the buttons give the other."""
        return self["remark"]

    def clean(self) -> dict[str, Any]:
        """Demand a remark of whoever decides on what another person asked for."""
        answers = super().clean() or {}
        if answers.get("decision") in ("approve", "refuse") and not answers.get("remark", "").strip():
            self.add_error("remark", "Write a remark: it is read by whoever asks later why this was done.")
        return answers

    @property
    def decision_made(self) -> str:
        """Which button was pressed, of a valid form."""
        return str(self.cleaned_data["decision"])
