"""Lists of rows, a page at a time."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request
from rest_framework.response import Response

from operator_api.authentication import OperatorView

PAGE, LARGEST_PAGE = 100, 1000


class Pages(CursorPagination):
    """Pages by a cursor: they neither repeat nor leave out a row when others are added meanwhile."""

    page_size, page_size_query_param, max_page_size = PAGE, "limit", LARGEST_PAGE

    def paginate_queryset(self, queryset: QuerySet[Any], request: Request, view: Any = None) -> list[Any] | None:
        """Return the rows of the page. Raises `NotFound` for a cursor that this list has not given."""
        self._field = queryset.model._meta.get_field(self.ordering[0].lstrip("-"))
        return super().paginate_queryset(queryset, request, view)

    def decode_cursor(self, request: Request) -> Cursor | None:
        """Return the cursor of the request. Raises `NotFound` unless its position is a value of the first field."""
        cursor = super().decode_cursor(request)
        if cursor is not None and cursor.position is not None:
            self._check_position(cursor.position)
        return cursor

    def _check_position(self, position: str) -> None:
        try:
            value = self._field.to_python(position)
            if isinstance(value, datetime):
                value.astimezone(UTC)  # the first and the last day there are may lie outside of UTC's calendar
        except (ValueError, OverflowError, ValidationError) as error:
            raise NotFound from error
        if "\0" in position or value in self._field.empty_values or _lacks_its_zone(value):
            raise NotFound


def _lacks_its_zone(value: Any) -> bool:
    return isinstance(value, datetime) and value.tzinfo is None


class Narrowing(serializers.Serializer[Mapping[str, Any]]):
    """The parameters by which a list is narrowed: each is compared with the field of its name, or its `source`."""

    cursor = serializers.CharField(required=False, help_text="Of `next` or `previous`.")
    limit = serializers.IntegerField(required=False, min_value=1, max_value=LARGEST_PAGE, help_text="Rows a page.")

    @classmethod
    def of(cls, request: Request) -> dict[str, Any]:
        """Return the conditions of a request. Raises `ValidationError` for unknown or unreadable parameters."""
        asked = cls(data=request.query_params)
        unknown = sorted(set(request.query_params) - set(asked.fields))
        if unknown:
            raise serializers.ValidationError({name: ["This list has no such parameter."] for name in unknown})
        asked.is_valid(raise_exception=True)
        return {name: value for name, value in asked.validated_data.items() if name not in ("cursor", "limit")}


class ListView(OperatorView):
    """A list of rows."""

    serializer_class: ClassVar[type[serializers.BaseSerializer[Any]]]
    narrowing: ClassVar[type[Narrowing]] = Narrowing
    pagination_class = Pages
    ordering: ClassVar[Sequence[str]]

    def rows(self) -> QuerySet[Any]:
        """Return all rows there are to list."""
        raise NotImplementedError

    def page(self, request: Request) -> Response:
        """Answer with the page that the request asks for."""
        rows = self.rows().filter(**self.narrowing.of(request))
        pages = Pages()
        pages.ordering = tuple(self.ordering)
        shown = pages.paginate_queryset(rows, request, view=self)
        return pages.get_paginated_response(self.serializer_class(shown, many=True).data)
