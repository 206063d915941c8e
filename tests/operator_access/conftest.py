"""A site that asks for all it can: a second factor, and a fresh sign-in for what is sensitive."""

import time
from typing import Any

import pytest
from allauth.mfa import app_settings
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value
from django.apps import apps
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from audit.models import Event
from operator_access.roles import Role, set_up_roles
from operator_access.services.people import create_operator

PASSWORD = "a long enough password"


def code_of(secret: str, *, later: int = 0) -> str:
    """Return the code that an authenticator app shows, or will show some periods later."""
    return format_hotp_value(hotp_value(secret, int(time.time()) // app_settings.TOTP_PERIOD + later))


def person(name: str, *roles: Role) -> User:
    """Create somebody with roles."""
    return create_operator(name, roles=roles, password=PASSWORD, actor="operator:root")


class Browser(Client):
    """A browser, and the authenticator app of whoever sits before it."""

    secret = ""
    periods_used = -2

    def give_password(self, name: str, password: str = PASSWORD) -> Any:
        """Fill in the sign-in page."""
        return self.post(reverse("account_login"), {"login": name, "password": password})

    def enrol_app(self) -> Any:
        """Enrol an authenticator app with its first code."""
        self.secret = self.get(reverse("mfa_activate_totp")).context["form"].secret
        self.periods_used = -2
        return self.post(reverse("mfa_activate_totp"), {"code": self.next_code()})

    def next_code(self) -> str:
        """Return a code that was not shown before: of the last period, this one and the next."""
        self.periods_used += 1
        return code_of(self.secret, later=self.periods_used)

    def sign_in(self, name: str) -> "Browser":
        """Sign in by password, enrolling an app where none is enrolled."""
        answer = self.give_password(name)
        assert answer.status_code == 302, answer.content
        if answer["Location"] == reverse("mfa_authenticate"):
            answer = self.post(reverse("mfa_authenticate"), {"code": self.next_code()})
        else:
            answer = self.enrol_app()
        assert answer.status_code == 302, answer.content
        return self

    def sits_idle(self, seconds: int) -> None:
        """Let the sign-in of this session grow old."""
        session = self.session
        for record in session["account_authentication_methods"]:
            record["at"] -= seconds
        session.save()


def told(*kinds: str) -> list[str]:
    """Return the sentences of the events of these kinds, oldest first."""
    return [event.description for event in Event.objects.filter(kind__in=kinds).order_by("id")]


@pytest.fixture(autouse=True)
def all_it_can(settings: Any) -> None:
    """Ask for a second factor and for fresh sign-ins."""
    settings.QFLARE_REQUIRE_SECOND_FACTOR, settings.QFLARE_FRESH_SIGN_IN_SECONDS = True, 300
    settings.QFLARE_RATES = settings.QFLARE_RATES | {"sign-in": "10000/m"}  # one test signs many in


@pytest.fixture(autouse=True)
def roles(db: None) -> None:
    """The groups: a test that flushes the database takes away what the migration made."""
    set_up_roles(apps)


@pytest.fixture
def olga() -> Browser:
    """The browser of an operator who has signed in."""
    person("olga", Role.OPERATOR)
    return Browser().sign_in("olga")


@pytest.fixture
def sam() -> Browser:
    """The browser of a security officer who has signed in."""
    person("sam", Role.SECURITY_OFFICER)
    return Browser().sign_in("sam")
