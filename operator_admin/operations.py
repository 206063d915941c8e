"""What an operator asks a service to do to rows: a page asks back, a POST does it, refusals become messages.

An admin class names its operations as attributes:

    suspend = on_one(SUSPEND)
    suspend_selected = on_selected(SUSPEND)
    actions_detail = ("suspend",)
    actions = ("suspend_selected",)
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin import helpers, site
from django.contrib.admin.utils import unquote
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from unfold.decorators import action
from unfold.enums import ActionVariant

from operator_admin.actions import Action, Wish, ask_second_person, data_of, register_finder, takes_two
from operator_admin.base import ReadOnlyAdmin
from operator_admin.forms import ConfirmationForm
from operator_admin.fresh_sign_in import is_fresh, sign_in_again
from operator_admin.party import Party
from qflare_protocol.errors import Refusal

CONFIRMED = "confirmed"
DANGER = ActionVariant.DANGER

Answers = Mapping[str, Any]
AdminView = Callable[..., HttpResponseBase]


@dataclass(frozen=True)
class Operation:
    """One verb.

    - name: an identifier; it becomes the last part of the page's address.
    - label: what the button says.
    - consequence: what happens then, in a sentence or two.
    - perform: does it to one row, given (row, actor, form data); returns what was done as a sentence.
    - form_class: what is asked besides.
    - permission: what of the admin it demands: "issue", "operate" or "end".
    - sensitive: whether it asks for a fresh sign-in.
    - second_person: one of `operator_admin.actions.SUBJECTS`, under which it may take two; empty: never.
    - held_back: of a row, whether `second_person` is meant of it; all rows unless said.
    """

    name: str
    label: str
    consequence: str
    perform: Callable[[Any, str, Answers], str]
    form_class: type[forms.Form] = ConfirmationForm
    variant: ActionVariant = ActionVariant.DEFAULT
    permission: str = "operate"
    sensitive: bool = False
    second_person: str = ""
    held_back: Callable[[Any], bool] = lambda _row: True

    def takes_two(self, row: Any) -> bool:
        """Whether it is asked for here of a row, and done when another person agrees."""
        return takes_two(self.second_person) and self.held_back(row)


def actor_of(request: HttpRequest) -> str:
    """Return how the audit log names the signed-in operator."""
    return Party("operator", request.user.get_username(), request.user.pk)


def on_one(operation: Operation) -> AdminView:
    """Return the page of one row on which the operation is asked for and done."""

    def view(admin: ReadOnlyAdmin, request: HttpRequest, object_id: str) -> HttpResponseBase:
        row = admin.get_object(request, unquote(object_id))
        if row is None:
            raise Http404
        if not getattr(admin, f"has_{operation.permission}_permission")(request, row):
            raise PermissionDenied
        return _ask_or_perform(operation, admin, request, [row], back=_back_from(request) or _address_of(admin, row.pk))

    view.__name__ = operation.name
    decorate = action(
        description=operation.label,
        url_path=operation.name,
        permissions=[operation.permission],
        variant=operation.variant,
    )
    decorated: AdminView = decorate(view)
    decorated.operation = operation  # type: ignore[attr-defined]
    return decorated


def on_selected(operation: Operation) -> AdminView:
    """Return the list's action that asks for the operation once and does it to every selected row."""

    def view(admin: ReadOnlyAdmin, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponseBase:
        return _ask_or_perform(operation, admin, request, list(queryset), back=request.get_full_path())

    view.__name__ = f"{operation.name}_selected"
    decorate = action(description=f"{operation.label} the selected", permissions=[operation.permission])
    decorated: AdminView = decorate(view)
    return decorated


def _ask_or_perform(
    operation: Operation, admin: ReadOnlyAdmin, request: HttpRequest, rows: list[Any], *, back: str
) -> HttpResponseBase:
    if operation.sensitive and not is_fresh(request):
        return sign_in_again(request, back=request.get_full_path())
    answered = request.method == "POST" and CONFIRMED in request.POST
    form = operation.form_class(request.POST if answered else None)
    if not form.is_valid():
        return _question(operation, admin, request, rows, form, back)
    _perform_on_each(operation, admin, request, rows, form.cleaned_data)
    return redirect(back)


def _perform_on_each(
    operation: Operation, admin: ReadOnlyAdmin, request: HttpRequest, rows: Iterable[Any], answers: Answers
) -> None:
    """Leave a message for each row: what was done, or why the service refused."""
    for row in rows:
        try:
            done = _perform(operation, admin, request, row, answers)
        except Refusal as refusal:
            admin.message_user(request, f"{row}: {refusal.detail}", messages.ERROR)
        else:
            admin.message_user(request, done, messages.SUCCESS)


def _perform(operation: Operation, admin: ReadOnlyAdmin, request: HttpRequest, row: Any, answers: Answers) -> str:
    if not operation.takes_two(row):
        return operation.perform(row, actor_of(request), answers)
    action = _action(admin, operation)
    data = data_of(request.POST, operation.form_class())
    return ask_second_person(request, Wish(action, str(row.pk), str(row), data))


def operation_by_name(name: str) -> Action | None:
    """Return the operation of an admin as an action by its name, such as "devices.device.revoke", or None."""
    model_name, _, operation_name = name.rpartition(".")
    for model, admin in site._registry.items():
        operation = getattr(getattr(admin, operation_name, None), "operation", None)
        if model._meta.label_lower == model_name and operation is not None and operation.second_person:
            return _action(admin, operation)
    return None


register_finder(operation_by_name)


def _action(admin: Any, operation: Operation) -> Action:
    """Return an operation on a row of an admin as what may be done later, by its name."""

    def permitted(user: Any, target: str) -> bool:
        asking = HttpRequest()
        asking.user = user
        return bool(getattr(admin, f"has_{operation.permission}_permission")(asking, _row(admin, target)))

    def perform(target: str, form: forms.Form, actor: str) -> str:
        return operation.perform(_row(admin, target), actor, form.cleaned_data)

    return Action(
        name=f"{admin.opts.label_lower}.{operation.name}",
        subject=operation.second_person,
        label=operation.label,
        consequence=operation.consequence,
        form=lambda _target, data: operation.form_class(data),
        perform=perform,
        permitted=permitted,
        address=lambda target: _address_of(admin, target),
    )


def _row(admin: Any, target: str) -> Model:
    row = admin.get_object(HttpRequest(), target)
    if row is None:
        raise Refusal("not-found", "What it was asked for is not there any more.")
    found: Model = row
    return found


def _question(
    operation: Operation, admin: ReadOnlyAdmin, request: HttpRequest, rows: list[Any], form: forms.Form, back: str
) -> HttpResponse:
    context = {
        **admin.admin_site.each_context(request),
        "title": operation.label,
        "operation": operation,
        "takes_two": any(operation.takes_two(row) for row in rows),
        "opts": admin.opts,
        "rows": rows,
        "form": form,
        "back": back,
        "confirmed": CONFIRMED,
        "hidden": _selection_of(request, rows),
    }
    return TemplateResponse(request, "operator_admin/confirm.html", context)


def _selection_of(request: HttpRequest, rows: list[Model]) -> list[tuple[str, str]]:
    """Return what the list has to be sent again to come back to the same action with the same rows."""
    chosen = request.POST.get("action")
    if not chosen:
        return []
    return [("action", chosen), *((helpers.ACTION_CHECKBOX_NAME, str(row.pk)) for row in rows)]


def _back_from(request: HttpRequest) -> str:
    """Return the page of this site that the operator came from and asked to come back to, or nothing."""
    page = request.GET.get(REDIRECT_FIELD_NAME, "")
    return page if url_has_allowed_host_and_scheme(page, allowed_hosts=None) else ""


def _address_of(admin: Any, key: object) -> str:
    name = f"{admin.admin_site.name}:{admin.opts.app_label}_{admin.opts.model_name}_change"
    return reverse(name, args=(key,))
