"""What the console's templates need beyond Django's own filters."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django import template
from django.contrib.humanize.templatetags.humanize import naturaltime
from django.utils.html import format_html
from django.utils.safestring import SafeString

from operator_admin.tones import tone_of
from qflare_protocol.suites import DISPLAY_ALIASES
from qflare_site.console.sentences import in_words

SHORT_DIGEST = 12
_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB")

register = template.Library()


@register.filter
def tone(state: str) -> str:
    """Return the tone, a class of the style sheet, that goes with a state."""
    return tone_of(state)


@register.filter
def alias(algorithm: str) -> str:
    """Return an algorithm's name with the older one that people know it by, where there is one."""
    return DISPLAY_ALIASES.get(algorithm, algorithm)


@register.filter
def size(count: float | None) -> str:
    """Return a number of bytes as people read it: 1.5 MB (of 10^6), or a dash without one."""
    if count is None:
        return "–"
    for unit in _BYTE_UNITS:
        if count < 1000 or unit == _BYTE_UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("the last unit takes everything")


@register.filter
def seconds(count: float | None) -> str:
    """Return a length of time as people read it: 0.4 s, 12 s, 3 min, 2.5 h, 4 d; a dash without one."""
    if count is None:
        return "–"
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if count >= 2 * length:
            return f"{count / length:.3g} {unit}"
    return f"{count:.1f} s" if count < 10 else f"{count:.0f} s"


@register.filter
def percent(fraction: float | None) -> str:
    """Return a fraction of 0 to 1 in percent, or a dash without one."""
    return "–" if fraction is None else f"{fraction:.0%}"


@register.filter
def pairs(members: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the members of a mapping; a template's own `.items` gives the member of that name where there is one."""
    return list(members.items())


@register.simple_tag
def state(value: str, word: str = "") -> SafeString:
    """Return a state as a word in its colour."""
    return format_html('<span class="state {}">{}</span>', tone_of(value), word or value.capitalize())


@register.simple_tag
def moment(at: datetime | None, missing: str = "never") -> SafeString:
    """Return a time relative to now, with the absolute UTC time for who points at it and for machines."""
    if at is None:
        return format_html('<span class="muted">{}</span>', missing)
    at = at.astimezone(UTC)
    told = f"{at:%Y-%m-%d %H:%M:%S} UTC"
    relative: Any = naturaltime(at)
    return format_html(
        '<time datetime="{}" title="{}" data-relative>{}</time>', at.isoformat(timespec="seconds"), told, relative
    )


@register.simple_tag
def digest(value: bytes | memoryview | str | None) -> SafeString:
    """Return the beginning of a digest, which is bytes or hexadecimal, and a button that copies the whole."""
    if not value:
        return format_html('<span class="muted">{}</span>', "–")
    whole = value if isinstance(value, str) else bytes(value).hex()
    return format_html(
        '<span class="digest"><code title="{}">{}…</code>'
        '<button type="button" class="small" data-copy="{}" aria-label="Copy the whole digest">Copy</button></span>',
        whole, whole[:SHORT_DIGEST], whole,
    )  # fmt: skip


@register.filter
def words(reason: str) -> str:
    """Return a reason code of the enclave as words; no reason stays none."""
    return in_words(reason) if reason else ""
