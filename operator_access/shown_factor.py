"""Whether the second factor was shown in a session, and where to go to show it.

A session that gave the password before a factor was enrolled elsewhere, or whose factor was taken away, has not.
"""

from allauth.account.adapter import get_adapter
from allauth.account.authentication import get_authentication_records
from allauth.mfa.models import Authenticator
from django.http import HttpRequest, HttpResponseRedirect
from django.utils.http import urlencode

from operator_access.services.second_factor import has_second_factor


def shown_in_this_session(request: HttpRequest) -> bool:
    """Whether a second factor that the person still has was shown in this very session."""
    records = get_authentication_records(request, request.user)
    shown = [record.get("id") for record in records if record["method"] == "mfa"]
    return bool(shown) and Authenticator.objects.filter(user_id=request.user.pk, pk__in=shown).exists()


def owes_factor(request: HttpRequest) -> bool:
    """Whether the person has a second factor that this session, signed in, has not shown."""
    signed_in = request.user.is_authenticated
    return bool(signed_in) and has_second_factor(request.user) and not shown_in_this_session(request)


def sent_to_show_it(request: HttpRequest) -> HttpResponseRedirect:
    """Send the person to show the factor; they come back to this page."""
    return sent_to(get_adapter(request).get_reauthentication_methods(request.user)[-1]["url"], request)


def sent_to(page: str, request: HttpRequest) -> HttpResponseRedirect:
    """Send the person to a page that comes back to this one."""
    return HttpResponseRedirect(f"{page}?{urlencode({'next': request.get_full_path()})}")
