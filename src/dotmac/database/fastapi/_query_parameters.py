"""A query string to `QueryOptions`, by declaration: what is not declared is a problem, never ignored."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dotmac.database.errors import ValidationError
from dotmac.database.query import (
    CountMode,
    CursorPaginationParams,
    FilterOperator,
    PaginationParams,
    QueryFilter,
    QueryOptions,
    SortField,
    SortOrder,
)
from dotmac.database.query._filters import conditions
from dotmac.database.tenancy import Scope

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from dotmac.database.models import ModelShape

PAGING = ("sort", "page", "per_page", "cursor", "limit")
LISTS = frozenset({FilterOperator.IN, FilterOperator.NOT_IN, FilterOperator.BETWEEN,
                   FilterOperator.ARRAY_CONTAINS, FilterOperator.ARRAY_CONTAINED_BY})  # fmt: skip
NULL_CHECKS = frozenset({FilterOperator.IS_NULL, FilterOperator.IS_NOT_NULL})

_MAX_PARAMETERS = 200
_MAX_VALUE_CHARS = 2_000
_MAX_CURSOR_CHARS = 16_384
_MAX_LIST_VALUES = 500
_MAX_SHOWN_NAME_CHARS = 60
_BOUNDS = 2
_WHOLE_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)

Problem = dict[str, Any]


@dataclass(frozen=True, slots=True)
class QueryParameters:
    """What a query string may say.

    Attributes:
        filters: Parameter name to field and operator.
        sortable: Fields that ``sort`` may name.
        shape: The model that values must fit, if known here.
        per_page: Rows of a page where the request does not say.
        max_per_page: The most it may ask for.
        count: How totals are found.
        default_sort: The order where the request does not say.
    """

    filters: Mapping[str, tuple[str, FilterOperator]]
    sortable: Collection[str]
    shape: ModelShape | None
    per_page: int
    max_per_page: int
    count: CountMode
    default_sort: tuple[SortField, ...]

    @property
    def _names(self) -> list[str]:
        return [*self.filters, *(name for name in PAGING if name != "sort" or self.sortable)]

    def parse(
        self, items: Sequence[tuple[str, str]], others: Collection[str] = ()
    ) -> tuple[QueryOptions, list[Problem]]:
        """Options, and what is wrong with ``items``; undeclared parameters in ``others`` are let through."""
        if len(items) > _MAX_PARAMETERS:
            return QueryOptions(), [_problem(None, f"more than {_MAX_PARAMETERS} parameters")]
        ours = [(name, value) for name, value in items if name not in others or name in self._names]
        problems: list[Problem] = []
        given: dict[str, str] = {}
        for name, times in Counter(name for name, _ in ours).items():
            value = next(value for known, value in ours if known == name)
            wrong = self._wrong_with(name, value, times)
            if wrong is None:
                given[name] = value
            else:
                problems.append(_problem(name, wrong))
        filters = tuple(self._filters(given, problems))
        sorts = self._sorts(given, problems)
        paging = self._paging(given, problems)
        if problems:
            return QueryOptions(), problems
        try:
            return QueryOptions(filters=filters, sorts=sorts, **paging), []
        except ValidationError as error:
            return QueryOptions(), [_problem(None, str(error))]

    def _wrong_with(self, name: str, value: str, times: int) -> str | None:
        if name not in self._names:
            return f"there is no such parameter; there are: {', '.join(self._names)}"
        if times > 1:
            return f"given {times} times; give it once (lists are separated by commas)"
        if not value:
            return "the value is empty"
        if len(value) > (_MAX_CURSOR_CHARS if name == "cursor" else _MAX_VALUE_CHARS):
            return "the value is too long"
        if "\x00" in value:
            return "the value holds a NUL character"
        return None

    def _filters(self, given: Mapping[str, str], problems: list[Problem]) -> Iterator[QueryFilter]:
        for name in [name for name in given if name in self.filters]:
            field, operator = self.filters[name]
            try:
                wanted = QueryFilter(field=field, operator=operator, value=_value(operator, given[name]))
                if self.shape is not None:
                    # The repository's own rule, run early: what it would refuse is refused here. Nothing is sent.
                    conditions(self.shape, [wanted], Scope(unscoped=True))
                yield wanted
            except ValidationError as error:
                problems.append(_problem(name, str(error)))

    def _sorts(self, given: Mapping[str, str], problems: list[Problem]) -> tuple[SortField, ...]:
        if "sort" not in given:
            return self.default_sort
        wanted = given["sort"].split(",")
        names = [part.removeprefix("-") for part in wanted]
        unknown = [name for name in names if name not in self.sortable]
        if unknown:
            problems.append(_problem("sort", f"sort by any of: {', '.join(self.sortable)}"))
            return ()
        if len(set(names)) < len(names):
            problems.append(_problem("sort", "a field is named twice"))
            return ()
        return tuple(
            SortField(field=name, order=SortOrder.DESC if part.startswith("-") else SortOrder.ASC)
            for part, name in zip(wanted, names, strict=True)
        )

    def _paging(self, given: Mapping[str, str], problems: list[Problem]) -> dict[str, Any]:
        by_cursor, by_page = given.keys() & {"cursor", "limit"}, given.keys() & {"page", "per_page"}
        if by_cursor and by_page:
            problems.append(_problem(min(by_cursor), "page by number or by cursor, not both"))
            return {}
        try:
            if by_cursor:
                limit = self._number(given, "limit", self.per_page, self.max_per_page)
                return {"cursor_pagination": CursorPaginationParams(cursor=given.get("cursor"), limit=limit)}
            page = self._number(given, "page", 1, 2**31)
            per_page = self._number(given, "per_page", self.per_page, self.max_per_page)
            return {"pagination": PaginationParams(page=page, per_page=per_page, count=self.count)}
        except _NotANumberError as error:
            problems.append(_problem(error.args[0], error.args[1]))
            return {}

    @staticmethod
    def _number(given: Mapping[str, str], name: str, default: int, most: int) -> int:
        text = given.get(name)
        if text is None:
            return default
        if _WHOLE_NUMBER.fullmatch(text) is None or not 1 <= int(text) <= most:
            raise _NotANumberError(name, f"a whole number from 1 to {most} is wanted")
        return int(text)


class _NotANumberError(Exception):
    """A number is none, or out of its range: the parameter's name and what is wanted."""


def _value(operator: FilterOperator, text: str) -> Any:
    if operator in NULL_CHECKS:
        if text not in {"true", "false"}:
            raise ValidationError("true or false is wanted")
        return text == "true"
    if operator not in LISTS:
        return text
    parts = text.split(",")
    if len(parts) > _MAX_LIST_VALUES:
        raise ValidationError(f"at most {_MAX_LIST_VALUES} values are allowed")
    if not all(parts):
        raise ValidationError("one of the values is empty")
    if operator is FilterOperator.BETWEEN and len(parts) != _BOUNDS:
        raise ValidationError("two values are wanted: the lowest and the highest")
    return parts


def _problem(name: str | None, message: str) -> Problem:
    """In the form of FastAPI's own validation errors, without the value that was given."""
    where = ("query",) if name is None else ("query", name[:_MAX_SHOWN_NAME_CHARS])
    return {"type": "query_options", "loc": where, "msg": message}
