"""What an operator states to issue tokens."""

import uuid
from datetime import timedelta

from django import forms
from django.conf import settings

from devices.models import Device, DeviceState
from enrollment.models import EnrolmentToken
from enrollment.services import MAX_TOKEN_LIFETIME, MAX_TOKENS_AT_ONCE, TOKEN_LIFETIME
from operator_admin.forms import IntegerWidget, SelectWidget, TextWidget

_HOUR = timedelta(hours=1)
# Room for the number that is appended when several tokens are issued for one name.
_LONGEST_NAME = EnrolmentToken._meta.get_field("device_name").max_length - len(f"-{MAX_TOKENS_AT_ONCE}")


class IssueTokensForm(forms.Form):
    """Name, group, suite, lifetime and count."""

    device_name = forms.CharField(
        required=False,
        max_length=_LONGEST_NAME,
        widget=TextWidget,
        help_text="The device must enrol under this name; with several tokens, name-1, name-2 and so on. "
        "Empty: the device chooses.",
    )
    group = forms.CharField(
        required=False,
        max_length=100,
        widget=TextWidget,
        help_text="Hospital, site or fleet the device will belong to.",
    )
    suite = forms.ChoiceField(
        choices=lambda: [(name, name) for name in settings.QFLARE_SUITES],
        initial=lambda: settings.QFLARE_DEFAULT_SUITE,
        widget=SelectWidget,
    )
    hours = forms.IntegerField(
        label="Lifetime in hours",
        min_value=1,
        max_value=MAX_TOKEN_LIFETIME // _HOUR,
        initial=TOKEN_LIFETIME // _HOUR,
        widget=IntegerWidget,
    )
    reenrols = forms.ModelChoiceField(
        queryset=Device.objects.filter(state=DeviceState.REVOKED),
        label="Revoked device that comes back",
        required=False,
        empty_label="None: a new device",
        widget=SelectWidget,
        help_text="It keeps its name, group and history and makes new keys; one token.",
    )
    count = forms.IntegerField(
        label="How many", min_value=1, max_value=MAX_TOKENS_AT_ONCE, initial=1, widget=IntegerWidget
    )

    @property
    def lifetime(self) -> timedelta:
        """The lifetime of a valid form."""
        hours: int = self.cleaned_data["hours"]
        return hours * _HOUR

    @property
    def reenrols_id(self) -> uuid.UUID | None:
        """The id of the revoked device that comes back, of a valid form."""
        device: Device | None = self.cleaned_data["reenrols"]
        return device.id if device else None
