"""Who looks at the admin: olga operates, vera views, and a superuser."""

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.test import Client

from tests.factories import PopulatedSite, make_user, populate

VERBS_OF_OLGA = ("view", "change", "add", "delete")


def _codenames(*verbs: str) -> list[str]:
    return [f"{verb}_{model._meta.model_name}" for model in apps.get_models() for verb in verbs]


def signed_in(user: User) -> Client:
    """Return a browser in which the user has signed in."""
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def site(db: None) -> PopulatedSite:
    """Return a site with a row in every table that operators see."""
    return populate()


@pytest.fixture
def olga(db: None) -> Client:
    """Return the browser of an operator who may view, change and add."""
    return signed_in(make_user("olga", *_codenames(*VERBS_OF_OLGA)))


@pytest.fixture
def vera(db: None) -> Client:
    """Return the browser of somebody who may only look."""
    return signed_in(make_user("vera", *_codenames("view")))


@pytest.fixture
def root(db: None) -> Client:
    """Return the browser of a superuser."""
    return signed_in(User.objects.create_superuser("root", password="a long enough password"))
