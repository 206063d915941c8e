"""System checks of access: what would let people in too easily."""

from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.checks import CheckMessage, Tags, Warning, register
from django.db import DatabaseError

from operator_access.roles import Role
from operator_admin.actions import takes_two


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


@register(Tags.security, deploy=True)
def check_second_person(**_kwargs: Any) -> list[CheckMessage]:
    """Who manages access alone makes the second person."""
    if not settings.QFLARE_SECOND_PERSON or takes_two("access"):
        return []
    hint = "Add access to QFLARE_SECOND_PERSON; see docs/access.md."
    message = "Some things take two persons, and one who manages access alone can be both."
    return [Warning(message, hint=hint, id="operator_access.W005")]


@register(Tags.database)
def check_roles(databases: Iterable[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """A superuser may do everything alone, and whoever has single permissions has them by nobody's table."""
    if "default" not in (databases or ()):
        return []
    try:
        superusers = User.objects.filter(is_superuser=True, is_active=True).count()
        others = User.objects.filter(is_active=True, is_staff=True, is_superuser=False).exclude(groups__name__in=Role)
        without_role = others.distinct().count()
    except DatabaseError:  # before the first migrate
        return []
    hint = "Give people roles in the admin, under Users; see docs/access.md."
    found = []
    if superusers > 1:
        message = f"{superusers} people are superusers; one is enough for emergencies."
        found.append(Warning(message, hint=hint, id="operator_access.W003"))
    if without_role:
        found.append(
            Warning(f"{without_role} members of the staff have no role.", hint=hint, id="operator_access.W004")
        )
    return found
