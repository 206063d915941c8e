"""Approvals: the screens on which a second person sees what was asked for, and decides."""

import uuid

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone

from operator_access.models import ApprovalRequest
from operator_access.services import approvals
from operator_admin.actions import Action, action_by_name, as_posted
from operator_admin.fresh_sign_in import needs_fresh_sign_in
from qflare_protocol.errors import Refusal
from qflare_site.console.decision_form import DecisionForm
from qflare_site.console.pages import console_page, show

SHOWN = 100


@console_page()
def list_approvals(request: HttpRequest) -> HttpResponseBase:
    """Answer `/approvals`: what waits for a second person and what was decided lately, of one's concern."""
    rows = ApprovalRequest.objects.select_related("asked_by", "decided_by")[:SHOWN]
    seen = [row for row in rows if _may_see(request, row)]
    return show(request, "console/approvals.html", title="Approvals", rows=seen)


@console_page(methods=("GET", "HEAD", "POST"))
@needs_fresh_sign_in
def decide(request: HttpRequest, request_id: uuid.UUID) -> HttpResponseBase:
    """Answer `/approvals/<id>`: everything that would be done; a POST decides."""
    row = ApprovalRequest.objects.select_related("asked_by").filter(id=request_id).first()
    if row is None or not _may_see(request, row):
        raise Http404
    form = DecisionForm(request.POST or None)
    if form.is_valid():
        _decide(request, row, form)
        return redirect("console:approvals")
    trail = [("Approvals", reverse("console:approvals"))]
    return show(request, "console/approval.html", title=str(row), trail=trail, **_page(request, row, form))


def _page(request: HttpRequest, row: ApprovalRequest, form: DecisionForm) -> dict[str, object]:
    action = _action_of(row)
    return {
        "row": row,
        "form": form,
        "action": action,
        "address": action.address(row.target) if action else "",
        "answers": _answers(action, row) if action else [],
        "may_decide": row.is_open(timezone.now()) and approvals.may_decide(row, request.user),
        "may_withdraw": row.is_open(timezone.now()) and row.asked_by_id == request.user.pk,
    }


def _answers(action: Action, row: ApprovalRequest) -> list[tuple[str, object]]:
    """Return what was filled in, field by field, as a person reads it."""
    form = action.form(row.target, as_posted(row.answers))
    given = [(str(field.label), field.value()) for field in form]
    return [(label, ", ".join(value) if isinstance(value, list) else value) for label, value in given if value]


def _action_of(row: ApprovalRequest) -> Action | None:
    try:
        return action_by_name(row.action)
    except Refusal:
        return None


def _may_see(request: HttpRequest, row: ApprovalRequest) -> bool:
    """Whether it is of somebody's concern: who asked, who may decide, who may see all of them."""
    if request.user.has_perm("operator_access.view_approvalrequest") or row.asked_by_id == request.user.pk:
        return True
    return approvals.may_decide(row, request.user)


def _decide(request: HttpRequest, row: ApprovalRequest, form: DecisionForm) -> None:
    """Leave a message: what was done, or why it was not."""
    remark, now = form.cleaned_data["remark"], timezone.now()
    try:
        if form.decision_made == "approve":
            done = approvals.approve(row.id, user=request.user, remark=remark, now=now)
        elif form.decision_made == "refuse":
            approvals.refuse(row.id, user=request.user, remark=remark, now=now)
            done = f"{row} is refused."
        else:
            approvals.withdraw(row.id, user=request.user, now=now)
            done = f"{row} is withdrawn."
    except Refusal as refusal:
        messages.error(request, refusal.detail)
    else:
        messages.success(request, done)
