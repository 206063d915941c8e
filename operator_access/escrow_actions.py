"""The commands of the escrow as actions: they run in a shell, once, when a second person has approved."""

from typing import Any

from django import forms
from django.http import QueryDict

from operator_admin.actions import Action, register_action

ESCROW_COMMANDS = {
    "escrow.split": ("Split the escrow", "Every earlier share is void, and the custodians named there get new ones."),
    "escrow.recover": ("Recover from escrow", "The server keys come back from shares, under the KEK of that host."),
}
_SHELL = " The command may run once within a day: it takes --approval."


class ShellForm(forms.Form):
    """What whoever asked says about it."""

    remark = forms.CharField(max_length=500)


def register_escrow_actions() -> None:
    """Register them."""
    for name, (label, consequence) in ESCROW_COMMANDS.items():
        register_action(
            Action(
                name=name,
                subject="escrow",
                label=label,
                consequence=consequence + _SHELL,
                form=_form,
                perform=_let_run,
                permitted=_permitted,
            )
        )


def _form(_target: str, data: QueryDict | None) -> forms.Form:
    return ShellForm(data)


def _let_run(_target: str, _form: forms.Form, _asker: str) -> str:
    return "The command may now run once, with --approval and the number of this request."


def _permitted(user: Any, _target: str) -> bool:
    return bool(user.has_perm("operator_access.change_approvalrequest"))
