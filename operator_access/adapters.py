"""What allauth asks of a site: who may sign up, when a sign-in is fresh, and where factors' secrets rest."""

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.core import context
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.models import Authenticator
from django.contrib.auth.base_user import AbstractBaseUser
from django.http import HttpRequest

from operator_access.services.factor_secrets import keep_secret, open_secret
from operator_admin.fresh_sign_in import is_fresh


class AccountAdapter(DefaultAccountAdapter):
    """People are let in by others: nobody signs up, and no e-mail address is asked for."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Nobody signs up."""
        return False

    def is_reauthentication_required(self, *, app: str, **kwargs: Any) -> bool:
        """Whoever has just signed in is not asked again before a factor is enrolled."""
        return not is_fresh(context.request)


class SecondFactorAdapter(DefaultMFAAdapter):
    """Secrets are wrapped by the keyring; allauth's rows hold the ids of ours."""

    def generate_authenticator_name(self, user: AbstractBaseUser, type: Authenticator.Type) -> str:  # noqa: A002
        """Return the name that a new passkey has when nobody gives it another."""
        return f"passkey {Authenticator.objects.filter(user_id=user.pk, type=type).count() + 1}"

    def encrypt(self, text: str) -> str:
        """Keep a secret of the person who is signed in, and return its id."""
        return keep_secret(text, user_id=context.request.user.pk)

    def decrypt(self, encrypted_text: str) -> str:
        """Return a secret by its id. Raises `EnvelopeError`, `KekError`."""
        return open_secret(encrypted_text)
