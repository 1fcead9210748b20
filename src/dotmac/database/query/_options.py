"""What a caller asks for: filters, sorts, pages. Plain frozen values, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, Self

import pydantic
from pydantic import ConfigDict, Field, model_validator

from dotmac.database.errors import ValidationError

MAX_PER_PAGE = 1000
DEFAULT_COUNT_CAP = 10_000
_MAX_FILTERS = 200
_MAX_SORTS = 16


class FilterOperator(StrEnum):
    """How a field is compared with a value.

    ``LIKE`` and ``ILIKE``: a value with ``%`` is an SQL pattern, one without matches the literal anywhere in the text.
    ``CONTAINS``, ``ICONTAINS``, ``STARTS_WITH`` and ``ENDS_WITH`` always match the literal.
    """

    EQ = "eq"
    NE = "ne"
    GT = "gt"
    GTE = "gte"
    LT = "lt"
    LTE = "lte"
    IN = "in"
    NOT_IN = "not_in"
    LIKE = "like"
    ILIKE = "ilike"
    IS_NULL = "is_null"
    IS_NOT_NULL = "is_not_null"
    BETWEEN = "between"
    CONTAINS = "contains"
    ICONTAINS = "icontains"
    STARTS_WITH = "starts_with"
    ENDS_WITH = "ends_with"
    ARRAY_CONTAINS = "array_contains"
    ARRAY_CONTAINED_BY = "array_contained_by"


class SortOrder(StrEnum):
    """Direction of a sort."""

    ASC = "asc"
    DESC = "desc"


class NullsOrder(StrEnum):
    """Where NULLs go in a sort."""

    FIRST = "first"
    LAST = "last"


class CountMode(StrEnum):
    """How a page's total is found.

    ``EXACT`` counts. ``ESTIMATE`` asks PostgreSQL's planner (other databases count). ``CAPPED`` counts up to a cap.
    ``NONE`` does not count: ``total`` and ``pages`` are None.
    """

    EXACT = "exact"
    ESTIMATE = "estimate"
    CAPPED = "capped"
    NONE = "none"


class _Option(pydantic.BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except pydantic.ValidationError as error:
            raise ValidationError(_explain(type(self).__name__, error)) from None


def _explain(name: str, error: pydantic.ValidationError) -> str:
    problems = "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'value'}: {item['msg']}"
        for item in error.errors(include_input=False, include_url=False, include_context=False)
    )
    return f"{name} is not valid: {problems}."


class QueryFilter(_Option):
    """One condition on a field.

    ``field`` may be a column, ``relation.field`` (rows for which a related row matches; rows never multiply), or
    ``json_column.path.to.key``. ISO strings are coerced to the column's type.

    Example:
        >>> QueryFilter(field="name", operator=FilterOperator.ILIKE, value="john").operator
        <FilterOperator.ILIKE: 'ilike'>
    """

    field: str = Field(min_length=1, max_length=256)
    operator: FilterOperator = FilterOperator.EQ
    value: Any = None


class FilterGroup(_Option):
    """Conditions combined: all of ``all_of``, at least one of ``any_of``, and none of ``none_of``. Groups nest.

    A group with no conditions at all is refused.
    """

    all_of: tuple[QueryFilter | FilterGroup, ...] = Field(default=(), max_length=_MAX_FILTERS)
    any_of: tuple[QueryFilter | FilterGroup, ...] = Field(default=(), max_length=_MAX_FILTERS)
    none_of: tuple[QueryFilter | FilterGroup, ...] = Field(default=(), max_length=_MAX_FILTERS)

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not (self.all_of or self.any_of or self.none_of):
            raise ValueError("a FilterGroup needs at least one condition")
        return self


Filter = QueryFilter | FilterGroup


class SortField(_Option):
    """One sort. Without ``nulls``, NULLs come last ascending and first descending, on every database."""

    field: str = Field(min_length=1, max_length=256)
    order: SortOrder = SortOrder.ASC
    nulls: NullsOrder | None = None

    @property
    def descending(self) -> bool:
        """True for ``DESC``."""
        return self.order is SortOrder.DESC

    @property
    def nulls_first(self) -> bool:
        """True if NULLs come first."""
        return self.descending if self.nulls is None else self.nulls is NullsOrder.FIRST


class PaginationParams(_Option):
    """A page by number. ``per_page`` is capped at 1,000."""

    page: int = Field(default=1, ge=1, le=2**31)
    per_page: int = Field(default=20, ge=1, le=MAX_PER_PAGE)
    count: CountMode = CountMode.EXACT
    count_cap: int = Field(default=DEFAULT_COUNT_CAP, ge=1, le=10_000_000)

    @property
    def offset(self) -> int:
        """Rows before the page."""
        return (self.page - 1) * self.per_page


class CursorPaginationParams(_Option):
    """A page by cursor: no offset, no count, as fast at row 1,000,000 as at row 1.

    ``cursor`` is a `CursorPaginationResult`'s ``next_cursor`` or ``prev_cursor``, or None to begin.
    ``cursor_field`` and ``order`` are used where the options name no sorts.
    """

    limit: int = Field(default=20, ge=1, le=MAX_PER_PAGE)
    cursor: str | None = Field(default=None, max_length=16_384)
    cursor_field: str | None = Field(default=None, min_length=1, max_length=256)
    order: SortOrder = SortOrder.ASC


class QueryOptions(_Option):
    """Everything a query can be asked for. Parts may be given as mappings: ``pagination={"page": 2}``.

    Attributes:
        filters: Conditions, all of which must hold.
        sorts: Order; the primary key is always appended, so that it is total.
        pagination: Page by number, for ``list`` and ``list_paginated``.
        cursor_pagination: Page by cursor, for ``cursor_paginate``.
        include_deleted: True to see soft-deleted rows too.
        load: Relationships to load with the rows (``"tasks"``, ``"tasks.comments"``), in one more statement each.
    """

    filters: tuple[QueryFilter | FilterGroup, ...] = Field(default=(), max_length=_MAX_FILTERS)
    sorts: tuple[SortField, ...] = Field(default=(), max_length=_MAX_SORTS)
    pagination: PaginationParams | None = None
    cursor_pagination: CursorPaginationParams | None = None
    include_deleted: bool = False
    load: tuple[str, ...] = ()


NO_OPTIONS = QueryOptions()

OptionsLike = QueryOptions | Mapping[str, Any] | None
"""What ``list`` and its kin take: options, a mapping of their fields, or nothing."""


def as_options(options: OptionsLike) -> QueryOptions:
    """``options`` as `QueryOptions`.

    Raises:
        TypeError: It is something else.
        ValidationError: A mapping has a field that `QueryOptions` has not, or a value that does not fit.
    """
    if options is None:
        return NO_OPTIONS
    if isinstance(options, QueryOptions):
        return options
    if isinstance(options, Mapping):
        _forbid_fields_of_a_model(options)
        return QueryOptions(**options) if options else NO_OPTIONS
    raise TypeError(
        f"Options are a QueryOptions, a mapping of its fields or None, not {type(options).__name__}."
    )


def _forbid_fields_of_a_model(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in QueryOptions.model_fields:
            raise ValidationError(
                f"QueryOptions has no {name!r}: a mapping holds its fields ({', '.join(QueryOptions.model_fields)}). "
                f"To filter by a field of the model: "
                f"QueryOptions(filters=[QueryFilter(field={name!r}, value=…)]).",
                field=str(name),
            )


def as_filters(filters: Any) -> tuple[Filter, ...]:
    """A sequence of filters (objects or mappings) as a tuple; None is no filter."""
    if filters is None:
        return ()
    if isinstance(filters, QueryFilter | FilterGroup):
        return (filters,)
    return QueryOptions(filters=tuple(filters)).filters


Direction = Literal["after", "before"]
