"""What tests of two persons share: a site on which much takes two, a second officer, and how they ask and decide."""

import pytest
from django.contrib.messages import get_messages
from django.urls import reverse

from devices.models import Device
from operator_access.models import ApprovalRequest
from operator_access.roles import Role
from tests.factories import make_device
from tests.operator_access.conftest import Browser, person

STOLEN = {"confirmed": "yes", "reason": "stolen"}


@pytest.fixture(autouse=True)
def two_persons(settings):
    settings.QFLARE_SECOND_PERSON = ["revoke", "release", "policy", "escrow", "access"]


@pytest.fixture
def device():
    return make_device("edge-1")


@pytest.fixture
def sue():
    """The browser of a second security officer."""
    person("sue", Role.SECURITY_OFFICER)
    return Browser().sign_in("sue")


def ask_to_revoke(browser, device):
    browser.post(reverse("admin:devices_device_revoke", args=(device.pk,)), STOLEN)
    return ApprovalRequest.objects.latest("asked_at")


def decide(browser, row, decision, remark="seen and agreed"):
    answer = browser.post(reverse("console:approval", args=(row.pk,)), {"decision": decision, "remark": remark})
    row.refresh_from_db()
    return answer


def state_of(device):
    return Device.objects.get(pk=device.pk).state


def said(answer):
    return [str(message) for message in get_messages(answer.wsgi_request)]
