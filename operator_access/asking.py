"""How a page asks for what takes two persons."""

from django.contrib.auth.models import User
from django.http import HttpRequest
from django.utils import timezone

from operator_access.services.approvals import ask_for
from operator_admin.actions import Wish
from operator_admin.party import Party


def write_down(request: HttpRequest, wish: Wish) -> str:
    """Write a wish of the signed-in person down, and say what comes next. Raises `Refusal("conflict")`."""
    user = User.objects.get(pk=request.user.pk)
    ask_for(wish, user=user, actor=Party("operator", user.get_username(), user.pk), now=timezone.now())
    return f"{wish.action.label} of {wish.target_name} is asked for; it is done when another person approves."
