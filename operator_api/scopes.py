"""What an API key may do, noun by noun; writing does not include reading."""

from collections.abc import Callable

from django.db import models


class Scope(models.TextChoices):
    """One right of a key."""

    TOKENS_READ = "tokens:read", "See enrolment tokens"
    TOKENS_WRITE = "tokens:write", "Issue and revoke enrolment tokens"
    DEVICES_READ = "devices:read", "See devices"
    DEVICES_WRITE = "devices:write", "Suspend, resume, revoke and label devices"
    FEDERATIONS_READ = "federations:read", "See federations"
    FEDERATIONS_WRITE = "federations:write", "Pause and resume federations"
    ROUNDS_READ = "rounds:read", "See rounds and who took part"
    ROUNDS_WRITE = "rounds:write", "Open, extend and cancel rounds"
    MODELS_READ = "models:read", "See model versions"
    MODELS_WRITE = "models:write", "Release model versions and go back to earlier ones"
    LOG_READ = "log:read", "Read the audit log and proofs of its entries"


DEMANDS: dict[Scope, tuple[str, ...]] = {
    Scope.TOKENS_WRITE: ("enrollment.add_enrolmenttoken", "enrollment.change_enrolmenttoken"),
    Scope.DEVICES_WRITE: ("devices.change_device", "devices.delete_device"),
    Scope.FEDERATIONS_WRITE: ("training.change_federation",),
    Scope.ROUNDS_WRITE: ("training.change_federation", "training.change_round"),
    Scope.MODELS_WRITE: ("training.change_federation", "training.change_modelversion"),
}
"""What somebody has to be permitted themselves to give a key a scope that writes."""

READING = tuple(scope.value for scope in Scope if scope.value.endswith(":read"))
"""The scopes of a key that may see everything and change nothing."""


def grantable(has_perms: Callable[[tuple[str, ...]], bool]) -> tuple[str, ...]:
    """Return the scopes that somebody may give a key: those that read, and what they may do themselves."""
    return (*READING, *(scope.value for scope, demanded in DEMANDS.items() if has_perms(demanded)))
