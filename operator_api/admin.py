"""API keys: created here, shown once, revoked here."""

from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from operator_admin.base import ReadOnlyAdmin
from operator_admin.columns import state_column
from operator_admin.decorators import action, display
from operator_admin.forms import ReasonForm
from operator_admin.fresh_sign_in import needs_fresh_sign_in
from operator_admin.operations import DANGER, Answers, Operation, actor_of, on_one, on_selected
from operator_api.forms import CreateKeyForm
from operator_api.models import ApiKey
from operator_api.scopes import grantable
from operator_api.services import CreatedKey, create_key, revoke_key
from qflare_protocol.errors import Refusal

SHOWN_ONCE = "The key is shown once, on the next page, and kept nowhere."


def _state_of(key: ApiKey) -> tuple[str, str]:
    state = key.state(timezone.now())
    return state, state.capitalize()


def _revoke(key: ApiKey, actor: str, answers: Answers) -> str:
    revoke_key(key.pk, reason=answers["reason"], actor=actor, now=timezone.now())
    return f"{key} is revoked."


REVOKE = Operation(
    "revoke", "Revoke", "Whoever has it is refused from now on.", _revoke, ReasonForm, DANGER, sensitive=True
)


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnlyAdmin):
    """Keys by what is known of them afterwards."""

    state = state_column(_state_of)
    revoke, revoke_selected = on_one(REVOKE), on_selected(REVOKE)

    list_display = ("name", "state", "allowed", "created_by", "created_at", "expires_at", "last_used_at")
    search_fields = ("name", "created_by")
    fields = (
        "id", "name", "state", "allowed", "created_by", "created_at", "expires_at", "revoked_at", "last_used_at",
    )  # fmt: skip
    readonly_fields = ("id", "state", "allowed")
    actions = ("revoke_selected",)
    actions_detail = ("revoke",)
    actions_list = ("create",)

    @display(description="Scopes")
    def allowed(self, key: ApiKey) -> str:
        """The key's scopes in one line."""
        return " ".join(key.scopes)

    @action(description="Create an API key", url_path="create", permissions=["issue"])
    @needs_fresh_sign_in
    def create(self, request: HttpRequest) -> HttpResponse:
        """Ask for the terms; answer the POST with the key's text, this once.

        Nobody gives a key what they may not do themselves.
        """
        form = CreateKeyForm(request.POST or None, grantable=grantable(request.user.has_perms))
        if form.is_valid():
            try:
                return self._show_once(request, _create(form, request))
            except Refusal as refusal:
                self.message_user(request, refusal.detail, messages.ERROR)
        return self._page(
            request, "operator_admin/issue_once_shown.html", form=form, button="Create", shown_once=SHOWN_ONCE
        )

    def _show_once(self, request: HttpRequest, created: CreatedKey) -> HttpResponse:
        answer = self._page(request, "operator_admin/created_api_key.html", created=created)
        answer["Cache-Control"] = "no-store"
        answer["Referrer-Policy"] = "no-referrer"
        return answer

    def _page(self, request: HttpRequest, template: str, **context: object) -> HttpResponse:
        common = {**self.admin_site.each_context(request), "title": "Create an API key", "opts": self.opts}
        return TemplateResponse(request, template, common | context)


def _create(form: CreateKeyForm, request: HttpRequest) -> CreatedKey:
    answers, maker = form.cleaned_data, User.objects.get(pk=request.user.pk)
    return create_key(
        answers["name"],
        scopes=answers["scopes"],
        lifetime=form.lifetime,
        actor=actor_of(request),
        now=timezone.now(),
        maker=maker,
    )
