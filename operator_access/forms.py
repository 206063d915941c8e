"""allauth's forms of second factors and passwords: limits that all processes share, nothing at rest in the clear."""

from typing import Any

from allauth.account import forms as account_forms
from allauth.account.adapter import get_adapter as get_account_adapter
from allauth.core import context
from allauth.core.internal.cryptokit import normalize_user_code
from allauth.mfa import signals
from allauth.mfa.adapter import get_adapter
from allauth.mfa.base import forms as code_forms
from allauth.mfa.models import Authenticator
from allauth.mfa.totp import forms as totp_forms
from allauth.mfa.totp.internal import auth as totp
from allauth.mfa.webauthn import forms as passkey_forms
from django import forms
from django.core.exceptions import ValidationError

from operator_access.code_limit import CountersUnavailable, another_attempt, first_use, forget_attempts
from operator_access.models import FactorSecret
from operator_access.services.factor_secrets import forget_secret, keep_secret, open_secret

TOO_MANY = "Too many codes were wrong. Wait a quarter of an hour, or ask a security officer."
UNAVAILABLE = "Codes cannot be checked at the moment; try again in a few seconds."


class LimitedCode(code_forms.BaseAuthenticateForm):
    """A code of an authenticator app or a recovery code: few wrong ones are taken, and a right one once."""

    def clean_code(self) -> str:
        """Return the code when it is right."""
        try:
            if not another_attempt(self.user.pk):
                raise ValidationError(TOO_MANY)
            code = super().clean_code()
            if self.authenticator.type == Authenticator.Type.TOTP:
                self._use_once(code)
            forget_attempts(self.user.pk)
        except CountersUnavailable as error:
            raise ValidationError(UNAVAILABLE) from error
        return code

    def _use_once(self, code: str) -> None:
        if not first_use(self.user.pk, normalize_user_code(code)):
            self._emit_authentication_failed(self.authenticator)
            raise get_adapter().validation_error("incorrect_code")


class AuthenticateForm(LimitedCode, code_forms.AuthenticateForm):
    """At a sign-in."""


class ReauthenticateForm(LimitedCode, code_forms.ReauthenticateForm):
    """At a fresh sign-in."""


class ChangePasswordForm(account_forms.ChangePasswordForm):
    """A new password; a wrong old one counts towards a lock-out as at a sign-in."""

    def clean_oldpassword(self) -> str:
        """Return the old password when it is right."""
        given: str = self.cleaned_data["oldpassword"]
        if not get_account_adapter().reauthenticate(self.user, given):
            raise get_account_adapter().validation_error("enter_current_password")
        return given


class EnrolTotpForm(totp_forms.ActivateTOTPForm):
    """Enrol an authenticator app; until its first code is right, its secret rests wrapped as it will rest after."""

    def __init__(self, *args: Any, **named: Any) -> None:
        self.user = named.pop("user")
        forms.Form.__init__(self, *args, **named)  # allauth's own puts the secret into the session in the clear
        self.secret = self._kept_secret() if self.is_bound else None
        if self.secret is None:
            self.secret = self._new_secret()

    def clean_code(self) -> str:
        """Return the code when it is right; it is used then, and no sign-in takes it."""
        code: str = super().clean_code()
        try:
            unused = first_use(self.user.pk, normalize_user_code(code))
        except CountersUnavailable as error:
            raise ValidationError(UNAVAILABLE) from error
        if not unused:
            raise get_adapter().validation_error("incorrect_code")
        return code

    def _kept_secret(self) -> str | None:
        kept = context.request.session.get(totp.SECRET_SESSION_KEY)
        waiting = FactorSecret.objects.filter(id=kept, user_id=self.user.pk).exists()
        return open_secret(kept) if waiting else None

    def _new_secret(self) -> str:
        session, secret = context.request.session, totp.generate_totp_secret()
        forget_secret(session.get(totp.SECRET_SESSION_KEY))
        session[totp.SECRET_SESSION_KEY] = keep_secret(secret, user_id=self.user.pk)
        return secret


class CheckedPasskey(passkey_forms.AuthenticateWebAuthnForm):
    """The answer of a passkey, refused with a sentence whatever it is made of."""

    def clean_credential(self) -> Authenticator:
        """Return the passkey when its answer is right."""
        try:
            return super().clean_credential()
        except ValidationError:
            self._record_failure()
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # no credential, but JSON
            self._record_failure()
            raise get_adapter().validation_error("incorrect_code") from error

    def _record_failure(self) -> None:
        key = Authenticator.objects.filter(user=self.user, type=Authenticator.Type.WEBAUTHN).first()
        if self.user is not None and key is not None:
            signals.authentication_failed.send(
                sender=Authenticator, request=context.request, user=self.user, authenticator=key,
                reauthentication=self.reauthenticated,
            )  # fmt: skip


class AuthenticatePasskeyForm(CheckedPasskey):
    """At a sign-in, after the password."""


class ReauthenticatePasskeyForm(CheckedPasskey, passkey_forms.ReauthenticateWebAuthnForm):
    """At a fresh sign-in."""


class PasskeySignInForm(CheckedPasskey, passkey_forms.LoginWebAuthnForm):
    """Instead of name and password."""


class EnrolPasskeyForm(passkey_forms.AddWebAuthnForm):
    """Enrol a passkey."""

    def clean(self) -> dict[str, Any]:
        """Check what the browser made."""
        try:
            return super().clean()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, ValidationError):
                raise
            raise get_adapter().validation_error("incorrect_code") from error
