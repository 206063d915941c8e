"""The base classes of our admins."""

from typing import Any

from django.db.models import Model
from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline

__all__ = ["ModelAdmin", "ReadOnlyAdmin", "ReadOnlyInline"]


class ReadOnlyAdmin(ModelAdmin):
    """Rows that only services write: an operator looks at them and asks services for changes.

    `fields` names what a page shows, so that a column with a wrapped secret is never shown by accident.
    The model's change permission does not open a form; it is what an operation on a row demands
    (`has_operate_permission`), the add permission what bringing one about does (`has_issue_permission`), and the
    delete permission what ending one for good does (`has_end_permission`).
    """

    fields: tuple[str, ...] = ()
    list_per_page = 50
    # A count over the whole table for every page of a filtered list costs more than it tells.
    show_full_result_count = False
    compressed_fields = True

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds a row by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody changes a row by hand."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody deletes a row by hand."""
        return False

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether the operator may ask a service to change a row."""
        return self._permitted(request, "change")

    def has_issue_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether the operator may ask a service to bring rows about."""
        return self._permitted(request, "add")

    def has_end_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether the operator may ask a service to end something for good, such as to revoke a device."""
        return self._permitted(request, "delete")

    def _permitted(self, request: HttpRequest, verb: str) -> bool:
        return request.user.has_perm(f"{self.opts.app_label}.{verb}_{self.opts.model_name}")


class ReadOnlyInline(TabularInline):
    """Rows of another table on a page, to look at."""

    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody adds a row by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody changes a row by hand."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody deletes a row by hand."""
        return False
