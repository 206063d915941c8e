"""System checks of access: what would let people in too easily."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning, register


@register(Tags.security, deploy=True)
def check_second_factor(**_kwargs: Any) -> list[CheckMessage]:
    """A password alone is phished and guessed."""
    if settings.QFLARE_REQUIRE_SECOND_FACTOR:
        return []
    hint = "Set QFLARE_REQUIRE_SECOND_FACTOR=true, or leave it out."
    return [Warning("People sign in without a second factor.", hint=hint, id="operator_access.W001")]


@register(Tags.security, deploy=True)
def check_fresh_sign_in(**_kwargs: Any) -> list[CheckMessage]:
    """Whoever finds a browser that is signed in should not revoke a device with it."""
    if settings.QFLARE_FRESH_SIGN_IN_SECONDS:
        return []
    hint = "Set QFLARE_FRESH_SIGN_IN_SECONDS, such as to 300."
    return [Warning("What is sensitive asks for no fresh sign-in.", hint=hint, id="operator_access.W002")]
