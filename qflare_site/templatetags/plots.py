"""`{% figure f %}`: a figure with its plot and its numbers."""

from typing import Any

from django import template

from qflare_site.console.plots.figure import Figure

register = template.Library()


@register.inclusion_tag("console/figure.html")
def figure(shown: Figure) -> dict[str, Any]:
    """Draw a figure; the page has to load `plots.css`."""
    return {"figure": shown}
