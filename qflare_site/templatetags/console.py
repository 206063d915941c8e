"""What the console's templates need beyond Django's own filters."""

from django import template

from operator_admin.tones import tone_of
from qflare_protocol.suites import DISPLAY_ALIASES

register = template.Library()


@register.filter
def tone(state: str) -> str:
    """Return the tone, a class of the style sheet, that goes with a state."""
    return tone_of(state)


@register.filter
def alias(algorithm: str) -> str:
    """Return an algorithm's name with the older one that people know it by, where there is one."""
    return DISPLAY_ALIASES.get(algorithm, algorithm)
