"""The pages of sign-in and second factors: strict, plain, and not to be upset by what is typed into them."""

import re
from html.parser import HTMLParser

import pytest
from django.contrib.staticfiles import finders
from django.http import QueryDict
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st

from operator_access.people_forms import RolesForm
from operator_admin import actions
from operator_admin.operations import operation_by_name
from tests.operator_access.conftest import Browser

ENTRANCE = ["account_login", "account_inactive"]
OWN = [
    "mfa_index", "mfa_activate_totp", "mfa_add_webauthn", "mfa_list_webauthn", "mfa_generate_recovery_codes",
    "mfa_view_recovery_codes", "mfa_reauthenticate", "account_reauthenticate",
    "account_change_password", "account_logout", "mfa_deactivate_totp",
]  # fmt: skip


class Page(HTMLParser):
    """Collects what a strict Content-Security-Policy would not let work, files, labels and fields."""

    def __init__(self, text):
        super().__init__()
        self.inline, self.files, self.labels, self.fields, self.headings = [], [], set(), set(), 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.inline += [name for name in given if name == "style" or re.match(r"on[a-z]+$", name)]
        if tag == "script" and "src" not in given and given.get("type") != "application/json":
            self.inline.append(tag)
        self.files += [given[name] for name in ("src", "href") if given.get(name, "").startswith("/static/")]
        if tag == "label":
            self.labels.add(given.get("for"))
        if tag in ("input", "textarea", "select") and given.get("type") not in ("hidden", "submit", "checkbox"):
            self.fields.add(given.get("id"))
        self.headings += tag == "h1"


def check(answer):
    assert answer.status_code == 200
    assert "unsafe" not in answer["Content-Security-Policy"]
    page = Page(answer.content.decode())
    assert page.inline == []
    assert page.fields <= page.labels, "a field has no label"
    assert page.headings == 1
    assert page.files
    assert [file for file in page.files if finders.find(file.removeprefix("/static/")) is None] == []


@pytest.mark.parametrize("name", ENTRANCE)
def test_pages_before_the_sign_in_work_under_the_strict_policy(client, name):
    check(client.get(reverse(name)))


@pytest.mark.parametrize("name", OWN)
def test_ones_own_pages_work_under_the_strict_policy_and_are_kept_by_nobody(olga, name):
    if name == "mfa_activate_totp":
        olga.post(reverse("mfa_deactivate_totp"))
    answer = olga.get(reverse(name))
    check(answer)
    if name.startswith("mfa_"):
        assert "no-store" in answer["Cache-Control"]


def test_the_page_of_the_second_factor_works_under_the_strict_policy(olga):
    door = Browser()
    door.give_password("olga")
    check(door.get(reverse("mfa_authenticate")))


ODD = ["", " ", "\0", "１２３４５６", "²³¹", "-1", "0" * 10_000, "123456\n", "null", "{}", "😀" * 6, "%s", "000000\0"]


@pytest.mark.parametrize("code", ODD, ids=range(len(ODD)))
def test_whatever_is_typed_as_a_code_is_answered_and_lets_nobody_in(olga, code):
    door = Browser()
    door.give_password("olga")
    assert door.post(reverse("mfa_authenticate"), {"code": code}).status_code == 200
    assert "_auth_user_id" not in door.session


@pytest.mark.parametrize("name", ODD, ids=range(len(ODD)))
def test_whatever_is_typed_as_a_name_is_answered_and_lets_nobody_in(client, name):
    answer = client.post(reverse("account_login"), {"login": name, "password": name})
    assert answer.status_code == 200
    assert "_auth_user_id" not in client.session


@given(
    st.dictionaries(
        st.sampled_from(["roles", "reason", "confirmed", "csrfmiddlewaretoken", "other"]),
        st.lists(st.text(max_size=20), min_size=1, max_size=3),
        max_size=5,
    )
)
def test_what_was_filled_in_is_kept_as_it_was_and_nothing_else_is(filled_in):
    posted = QueryDict(mutable=True)
    for name, values in filled_in.items():
        posted.setlist(name, values)
    kept = actions.as_posted(actions.data_of(posted, RolesForm()))
    assert dict(kept.lists()) == {name: filled_in[name] for name in ("roles", "reason") if name in filled_in}


def test_an_action_has_one_name_and_a_subject_that_is_known():
    action = operation_by_name("devices.device.revoke")
    for wrong in (actions.Action(**{**vars(action), "name": "monitor.tune"}), _with_subject(action, "lunch")):
        with pytest.raises(ValueError, match="registered twice"):
            actions.register_action(wrong)


def _with_subject(action, subject):
    return actions.Action(**{**vars(action), "name": "another", "subject": subject})


def test_every_subject_has_an_action_and_every_action_its_subject():
    names = {
        "revoke": "devices.device.revoke",
        "release": "training.modelversion.release",
        "policy": "training.federation.resume",
        "escrow": "escrow.split",
        "access": "auth.user.set_roles",
    }
    assert set(names) == set(actions.SUBJECTS)
    assert {subject: actions.action_by_name(name).subject for subject, name in names.items()} == {
        subject: subject for subject in names
    }
