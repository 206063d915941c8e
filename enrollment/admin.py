"""Enrolment tokens: issued here, shown once, revoked here. The texts are nowhere but in that one answer."""

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from enrollment.device_command import device_command
from enrollment.forms import IssueTokensForm
from enrollment.models import EnrolmentToken
from enrollment.qr_code import qr_code
from enrollment.services import IssuedToken, issue_tokens, revoke_token
from operator_admin.base import ReadOnlyAdmin
from operator_admin.columns import state_column
from operator_admin.decorators import action
from operator_admin.operations import DANGER, Answers, Operation, actor_of, on_one, on_selected
from qflare_protocol.errors import Refusal

SHOWN_ONCE = "The tokens are shown once, on the next page, and kept nowhere."


def _state_of(token: EnrolmentToken) -> tuple[str, str]:
    state = token.state(timezone.now())
    return state, state.capitalize()


def _revoke(token: EnrolmentToken, actor: str, answers: Answers) -> str:
    revoke_token(token.pk, actor=actor, now=timezone.now())
    return f"{str(token).capitalize()} is revoked."


REVOKE = Operation("revoke", "Revoke", "Nobody can enrol with it any more.", _revoke, variant=DANGER)


class StateFilter(admin.SimpleListFilter):
    """Filter by state, which is made of times and not a column."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: ReadOnlyAdmin) -> list[tuple[str, str]]:
        """Return the states there are."""
        return [(state, state.capitalize()) for state in EnrolmentToken.STATES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[EnrolmentToken]) -> QuerySet[EnrolmentToken]:
        """Return the tokens in the chosen state now."""
        chosen = self.value()
        if chosen not in EnrolmentToken.STATES:
            return queryset
        return queryset.filter(EnrolmentToken.in_state(chosen, timezone.now()))


@admin.register(EnrolmentToken)
class EnrolmentTokenAdmin(ReadOnlyAdmin):
    """Tokens by what is known of them afterwards."""

    state = state_column(_state_of)
    revoke, revoke_selected = on_one(REVOKE), on_selected(REVOKE)

    list_display = ("__str__", "group", "state", "suite", "issued_by", "issued_at", "expires_at", "used_by")
    list_filter = (StateFilter, "group", "suite")
    list_select_related = ("used_by",)
    search_fields = ("device_name", "group", "issued_by", "used_by__name", "id")
    date_hierarchy = "issued_at"
    fields = (
        "id", "device_name", "group", "suite", "state", "issued_by", "issued_at", "expires_at",
        "reenrols", "used_at", "used_by", "revoked_at",
    )  # fmt: skip
    readonly_fields = ("id", "state")
    actions = ("revoke_selected",)
    actions_detail = ("revoke",)
    actions_list = ("issue",)

    @action(description="Issue tokens", url_path="issue", permissions=["issue"])
    def issue(self, request: HttpRequest) -> HttpResponse:
        """Ask for the terms; answer the POST with the token texts, this once."""
        form = IssueTokensForm(request.POST or None)
        if form.is_valid():
            try:
                return self._show_once(request, _issue(form, actor_of(request)))
            except Refusal as refusal:
                self.message_user(request, refusal.detail, messages.ERROR)
        return self._page(
            request, "operator_admin/issue_once_shown.html", form=form, button="Issue", shown_once=SHOWN_ONCE
        )

    def _show_once(self, request: HttpRequest, issued: list[IssuedToken]) -> HttpResponse:
        server = request.build_absolute_uri("/").rstrip("/")
        tokens = [
            {"issued": token, "command": device_command(token, server), "code": qr_code(token.text)} for token in issued
        ]
        answer = self._page(request, "operator_admin/issued_tokens.html", tokens=tokens)
        answer["Cache-Control"] = "no-store"
        answer["Referrer-Policy"] = "no-referrer"
        return answer

    def _page(self, request: HttpRequest, template: str, **context: object) -> HttpResponse:
        common = {**self.admin_site.each_context(request), "title": "Issue enrolment tokens", "console": True}
        return TemplateResponse(request, template, common | context)


def _issue(form: IssueTokensForm, actor: str) -> list[IssuedToken]:
    return issue_tokens(
        form.cleaned_data["count"],
        actor=actor,
        now=timezone.now(),
        device_name=form.cleaned_data["device_name"],
        group=form.cleaned_data["group"],
        suite=form.cleaned_data["suite"],
        lifetime=form.lifetime,
        reenrols_id=form.reenrols_id,
    )
