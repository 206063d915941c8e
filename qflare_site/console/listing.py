"""Lists whose address says what they show: filters and the page are query parameters, and read strictly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlencode

from django.db.models import Q, QuerySet
from django.http import HttpRequest

from training.models import Federation

ROWS_PER_PAGE = 50
DEEPEST_PAGE = 2000
LONGEST_SEARCH = 100
FEDERATION = "federation__name"
FEDERATIONS_OFFERED = 200


@dataclass(frozen=True)
class Choice:
    """A filter by one column: its query parameter, which is the lookup too, its label and (value, word) pairs."""

    name: str
    label: str
    options: Sequence[tuple[str, str]]
    chosen: str = ""


@dataclass(frozen=True)
class Listing:
    """One page of a list. Nothing is counted: a page knows whether another follows."""

    rows: list[Any]
    number: int
    has_next: bool
    search: str
    choices: tuple[Choice, ...]
    searchable: bool

    @property
    def narrowed(self) -> bool:
        """Whether it shows a part of what there is."""
        return bool(self.search) or any(choice.chosen for choice in self.choices)

    def chosen(self, name: str) -> str:
        """What is chosen in a filter, one of its options; empty where nothing is."""
        return next((choice.chosen for choice in self.choices if choice.name == name), "")

    @property
    def beyond(self) -> bool:
        """Whether a page was asked for that is behind the last one."""
        return self.number > 1 and not self.rows

    @property
    def first_address(self) -> str:
        """The query string of the first page."""
        return self._address(1)

    @property
    def next_address(self) -> str:
        """The query string of the following page."""
        return self._address(self.number + 1)

    @property
    def previous_address(self) -> str:
        """The query string of the page before."""
        return self._address(self.number - 1)

    def _address(self, number: int) -> str:
        chosen = {choice.name: choice.chosen for choice in self.choices if choice.chosen}
        return "?" + urlencode(chosen | ({"search": self.search} if self.search else {}) | {"page": number})

    @classmethod
    def of(
        cls,
        queryset: QuerySet[Any],
        request: HttpRequest,
        *,
        choices: Sequence[Choice] = (),
        search: Sequence[str] = (),
        conditions: Mapping[str, Mapping[str, Q]] | None = None,
    ) -> Self:
        """Read the page that the request asks for.

        - choices: filters; a value that is none of the options is as if none were chosen.
        - search: lookups that the text of `?search=` is looked for in.
        - conditions: for a filter that is no column, what each of its options means.
        """
        made = tuple(_chosen(choice, request) for choice in choices)
        for choice in (one for one in made if one.chosen):
            meant = (conditions or {}).get(choice.name, {}).get(choice.chosen, Q(**{choice.name: choice.chosen}))
            queryset = queryset.filter(meant)
        text = request.GET.get("search", "").replace("\0", "").strip()[:LONGEST_SEARCH] if search else ""
        if text:
            found = Q()
            for lookup in search:
                found |= Q(**{f"{lookup}__icontains": text})
            queryset = queryset.filter(found)
        number = _page_number(request)
        start = (number - 1) * ROWS_PER_PAGE
        rows = list(queryset[start : start + ROWS_PER_PAGE + 1])
        has_next = len(rows) > ROWS_PER_PAGE and number < DEEPEST_PAGE
        return cls(rows[:ROWS_PER_PAGE], number, has_next, text, made, bool(search))


def federation_choice(request: HttpRequest) -> Choice:
    """Return the filter by federation: the first 200 by name, and the one asked for wherever it stands."""
    names = list(Federation.objects.order_by("name").values_list("name", flat=True)[:FEDERATIONS_OFFERED])
    asked = request.GET.get(FEDERATION, "")
    # PostgreSQL takes no text with a NUL in it.
    if asked and asked not in names and "\0" not in asked and Federation.objects.filter(name=asked).exists():
        names.append(asked)
    return Choice(FEDERATION, "Federation", [(name, name) for name in names])


def _chosen(choice: Choice, request: HttpRequest) -> Choice:
    given = request.GET.get(choice.name, "")
    known = given in {value for value, _ in choice.options}
    return Choice(choice.name, choice.label, choice.options, given if known else "")


def _page_number(request: HttpRequest) -> int:
    text = request.GET.get("page", "1")
    return min(max(int(text), 1), DEEPEST_PAGE) if text.isdecimal() and len(text) < 7 else 1
