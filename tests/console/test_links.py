"""Every link on every screen leads somewhere for whoever it is shown to, whatever their role."""

import re
from html import unescape
from urllib.parse import urljoin, urlsplit

import pytest
from django.apps import apps
from django.contrib.auth.models import Group
from django.urls import reverse

from audit.models import Entry
from operator_access.roles import Role, set_up_roles
from tests.admin.conftest import signed_in
from tests.factories import make_user, populate
from training.models import ModelVersion

pytestmark = pytest.mark.django_db

SIGNS_OUT = ("/admin/logout", "/accounts/logout")


def screens(site):
    rows = {
        "device": site.devices[0].pk, "federation": site.federation.pk, "round": site.completed.pk,
        "model": ModelVersion.objects.order_by("-number").first().pk, "log-entry": Entry.objects.first().index,
    }  # fmt: skip
    lists = (
        "overview", "devices", "enrolment", "sessions", "federations", "rounds", "models", "incidents", "log-entries",
        "log-checkpoints", "workers", "system", "access", "approvals", "federation-new",
    )  # fmt: skip
    running = reverse("console:round", args=(site.running.pk,))
    return [
        *(reverse(f"console:{name}") for name in lists),
        *(reverse(f"console:{name}", args=(key,)) for name, key in rows.items()),
        running,
    ]


def links_of(page, address):
    for found in re.findall(r'href="([^"]+)"', page):
        target = urlsplit(urljoin(address, unescape(found)))
        if not target.netloc and not target.path.startswith(("/static/", *SIGNS_OUT)):
            yield target._replace(fragment="").geturl()


@pytest.mark.parametrize("role", list(Role))
def test_no_link_that_is_shown_is_refused_or_leads_nowhere(role):
    set_up_roles(apps)
    site = populate()
    user = make_user("rosa")
    user.groups.add(Group.objects.get(name=role.value))
    browser = signed_in(user)
    shown = {}
    for address in screens(site):
        answer = browser.get(address)
        assert answer.status_code in (200, 403), address
        if answer.status_code == 200:
            shown |= {link: address for link in links_of(answer.content.decode(), address)}
    assert len(shown) > 20
    shown.pop("/health", None)  # 503: no worker runs here
    refused = {link: (browser.get(link).status_code, where) for link, where in shown.items()}
    assert {link: what for link, what in refused.items() if what[0] >= 400} == {}
