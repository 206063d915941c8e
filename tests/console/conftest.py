"""The console's readers."""

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tests.admin.conftest import signed_in
from tests.factories import make_user


@pytest.fixture
def staff(db: None) -> Client:
    """Return the browser of somebody who may see and do everything."""
    return signed_in(User.objects.create_superuser("sam", password="a long enough password"))


@pytest.fixture
def newcomer(db: None) -> Client:
    """Return the browser of a member of staff who has no permission at all."""
    return signed_in(make_user("nina"))


@pytest.fixture
def visitor(db: None) -> Client:
    """Return the browser of somebody who can sign in and is not of the staff."""
    return signed_in(make_user("vic", staff=False))
