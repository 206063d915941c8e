"""What takes a second person where the site says so: actions by name, to be shown, permitted and done later."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django import forms
from django.conf import settings
from django.http import HttpRequest, QueryDict

from qflare_protocol.errors import Refusal

SUBJECTS = ("revoke", "release", "policy", "escrow", "access")
"""What `QFLARE_SECOND_PERSON` may name."""

Data = Mapping[str, list[str]]


@dataclass(frozen=True)
class Action:
    """Something that one person asks for and another one agrees to.

    - name: by which it is found again, such as "devices.device.revoke".
    - subject: one of `SUBJECTS`.
    - label: what the button says; consequence: what happens then.
    - form: of (target, data), what was filled in; it is checked again before it is done.
    - perform: of (target, valid form, actor), does it and returns what was done as a sentence.
    - permitted: of (user, target), whether a person may do it, alone or as the second one.
    - address: of the target, where it is looked at; empty where there is nothing to see.
    """

    name: str
    subject: str
    label: str
    consequence: str
    form: Callable[[str, QueryDict | None], forms.Form]
    perform: Callable[[str, forms.Form, str], str]
    permitted: Callable[[Any, str], bool]
    address: Callable[[str], str] = lambda _target: ""


@dataclass(frozen=True)
class Wish:
    """An action that somebody asks for: on what, and with which answers."""

    action: Action
    target: str
    target_name: str
    data: Data


Ask = Callable[[HttpRequest, Wish], str]

_ACTIONS: dict[str, Action] = {}
_FINDERS: list[Callable[[str], Action | None]] = []
_ASKERS: list[Ask] = []


def register_action(action: Action) -> Action:
    """Make an action known by its name. Raises `ValueError` for a name that is taken or a subject that is none."""
    if action.subject not in SUBJECTS or _ACTIONS.setdefault(action.name, action) is not action:
        raise ValueError(f"the action {action.name} is registered twice, or {action.subject} is no subject")
    return action


def register_finder(find: Callable[[str], Action | None]) -> None:
    """Ask this function too for actions by name."""
    _FINDERS.append(find)


def action_by_name(name: str) -> Action:
    """Return an action. Raises `Refusal("not-found")` for one that this release does not know."""
    found = _ACTIONS.get(name) or next(filter(None, (find(name) for find in _FINDERS)), None)
    if found is None:
        raise Refusal("not-found", f"This release knows no action {name}.")
    return found


def use_asker(ask: Ask) -> None:
    """Let wishes be written down by this function, which is of an app above."""
    _ASKERS[:] = [ask]


def takes_two(subject: str) -> bool:
    """Whether the site lets nobody do alone what falls under a subject."""
    return subject in settings.QFLARE_SECOND_PERSON


def ask_second_person(request: HttpRequest, wish: Wish) -> str:
    """Write a wish down instead of doing it; return what to tell. Raises `Refusal("conflict")`."""
    return _ASKERS[0](request, wish)


def refuse_alone(subject: str) -> None:
    """Refuse what somebody would do alone. Raises `Refusal("approval-required")` where it takes two."""
    if takes_two(subject):
        raise Refusal(
            "approval-required", "Here this takes two persons: ask for it in the admin; another person approves there."
        )


def data_of(posted: QueryDict, form: forms.Form) -> Data:
    """Return what was filled into the fields of a form, as it was sent."""
    return {name: posted.getlist(form.add_prefix(name)) for name in form.fields if form.add_prefix(name) in posted}


def as_posted(data: Data) -> QueryDict:
    """Return what was filled in as a browser would send it."""
    posted = QueryDict(mutable=True)
    for name, values in data.items():
        posted.setlist(name, values)
    return posted
