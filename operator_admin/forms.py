"""The forms by which an operation asks back, and the theme's forms and widgets, passed on."""

from django import forms
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

__all__ = [
    "AdminPasswordChangeForm",
    "CheckboxesWidget",
    "ConfirmationForm",
    "IntegerWidget",
    "NumberWidget",
    "ReasonForm",
    "SelectWidget",
    "SwitchWidget",
    "TextAreaWidget",
    "TextWidget",
    "UserChangeForm",
    "UserCreationForm",
]

CheckboxesWidget = UnfoldAdminCheckboxSelectMultipleWidget
IntegerWidget = UnfoldAdminIntegerFieldWidget
NumberWidget = UnfoldAdminDecimalFieldWidget
SwitchWidget = UnfoldBooleanSwitchWidget
TextAreaWidget = UnfoldAdminTextareaWidget
SelectWidget = UnfoldAdminSelectWidget
TextWidget = UnfoldAdminTextInputWidget

MAX_REASON_LENGTH = 500


class ConfirmationForm(forms.Form):
    """Nothing but the button."""


class ReasonForm(forms.Form):
    """The reason, kept in the audit log for good."""

    reason = forms.CharField(
        max_length=MAX_REASON_LENGTH,
        widget=UnfoldAdminTextareaWidget({"rows": 3}),
        help_text="Kept in the audit log with your name. Write what somebody needs who reads it in a year.",
    )
