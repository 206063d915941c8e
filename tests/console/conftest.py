"""The console's readers."""

import pytest
from django.test import Client

from tests.admin.conftest import signed_in
from tests.factories import make_user


@pytest.fixture
def staff(db: None) -> Client:
    """Return the browser of a member of staff who has no permission at all."""
    return signed_in(make_user("sam"))


@pytest.fixture
def visitor(db: None) -> Client:
    """Return the browser of somebody who can sign in and is not of the staff."""
    return signed_in(make_user("vic", staff=False))
