"""Callers of the operator API: a key that may do everything, and keys made for one test."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from operator_api.scopes import Scope
from operator_api.services import create_key
from tests.factories import populate


@pytest.fixture
def site(db):
    """A site with a row in every table that operators see."""
    return populate()


@pytest.fixture
def caller(db):
    """Make a client that shows a key of these scopes."""

    def make(*scopes, name="another-script"):
        key = create_key(name, scopes=scopes, lifetime=timedelta(days=1), actor="operator:olga", now=timezone.now())
        return Client(headers={"Authorization": f"Bearer {key.text}"})

    return make


@pytest.fixture
def everything(caller):
    """A client that may do everything."""
    return caller(*Scope.values, name="everything")
