"""Secrets of second factors: kept wrapped, opened to check a code, gone when no factor names them."""

import uuid

from allauth.mfa.models import Authenticator
from django.utils import timezone

from keyring import envelope
from operator_access.models import FactorSecret


def keep_secret(text: str, *, user_id: int) -> str:
    """Wrap a secret of a person and return the id under which it rests."""
    row = FactorSecret(id=uuid.uuid4(), user_id=user_id, created_at=timezone.now())
    row.wrapped_secret = envelope.wrap(text.encode(), **row.envelope())
    row.save(force_insert=True)
    return str(row.id)


def open_secret(secret_id: str) -> str:
    """Return a secret by its id. Raises `EnvelopeError` where it does not open or is gone, `KekError`."""
    row = FactorSecret.objects.filter(id=secret_id).first()
    if row is None:
        raise envelope.EnvelopeError(f"The secret {secret_id} of a second factor is gone.")
    return envelope.unwrap(row.wrapped_secret, **row.envelope()).decode()


def forget_secret(secret_id: str | None) -> None:
    """Delete a secret, where it is still there."""
    FactorSecret.objects.filter(id=secret_id).delete()


def forget_secrets_of_no_factor(user_id: int) -> None:
    """Delete the secrets of a person that none of their factors names."""
    factors = Authenticator.objects.filter(user_id=user_id).values_list("data", flat=True)
    named = [data[member] for data in factors for member in ("secret", "seed") if member in data]
    FactorSecret.objects.filter(user_id=user_id).exclude(id__in=named).delete()
