"""Enrolment tokens: what became of those that were issued. The texts are shown once, where they are issued."""

from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone

from enrollment.models import EnrolmentToken
from qflare_site.console.listing import Choice, Listing
from qflare_site.console.pages import console_page, show


@console_page("enrollment.view_enrolmenttoken")
def list_tokens(request: HttpRequest) -> HttpResponseBase:
    """Answer `/enrolment`: the tokens, newest first, each with its state now."""
    now = timezone.now()
    rows = EnrolmentToken.objects.select_related("used_by").order_by("-issued_at")
    choices = (Choice("state", "State", [(state, state.capitalize()) for state in EnrolmentToken.STATES]),)
    conditions = {"state": {state: EnrolmentToken.in_state(state, now) for state in EnrolmentToken.STATES}}
    listing = Listing.of(rows, request, choices=choices, search=("device_name", "group"), conditions=conditions)
    tokens = [(token, token.state(now)) for token in listing.rows]
    return show(request, "console/enrolment.html", title="Enrolment", listing=listing, tokens=tokens)
