"""Pages: what comes back, and the arithmetic of numbers and totals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from dotmac.database.query._options import PaginationParams

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PaginationResult(Generic[T]):
    """One page by number.

    Attributes:
        items: The rows, at most ``per_page``.
        total: Rows over all pages; None if they were not counted. Past the last page it is still the total.
        page: This page's number, from 1.
        pages: How many pages there are; None if rows were not counted.
        per_page: The page size that was applied.
        has_next: True if a further page has rows.
        has_prev: True if this is not the first page.
        total_is_exact: False for an estimate, and for a capped count that reached its cap ("at least").
    """

    items: list[T]
    total: int | None
    page: int
    pages: int | None
    per_page: int
    has_next: bool
    has_prev: bool
    total_is_exact: bool = True


@dataclass(frozen=True, slots=True)
class CursorPaginationResult(Generic[T]):
    """One page by cursor.

    Attributes:
        items: The rows, at most ``limit``, in the wanted order in both directions.
        next_cursor: For the rows after these; None at the end.
        prev_cursor: For the rows before these; None at the beginning.
        has_next: True if rows follow.
        has_prev: True if rows come before.
        limit: The page size that was applied.
    """

    items: list[T]
    next_cursor: str | None
    prev_cursor: str | None
    has_next: bool
    has_prev: bool
    limit: int


def number_page(
    rows: list[T], params: PaginationParams, total: int | None, *, total_is_exact: bool = True
) -> PaginationResult[T]:
    """A page of up to ``per_page + 1`` rows, the last of which only tells that more follow."""
    more = len(rows) > params.per_page
    items = rows[: params.per_page]
    seen = params.offset + len(items) if items else 0
    if total is not None and not total_is_exact:
        total = max(total, seen + more)  # an estimate must not contradict what was seen
    pages = None if total is None else -(-total // params.per_page)
    return PaginationResult(
        items=items,
        total=total,
        page=params.page,
        pages=pages,
        per_page=params.per_page,
        has_next=more,
        has_prev=params.page > 1,
        total_is_exact=total is not None and total_is_exact,
    )


def total_without_counting(rows: list[T], params: PaginationParams) -> int | None:
    """The total, where a page that is not full already tells it."""
    if len(rows) <= params.per_page and (rows or params.page == 1):
        return params.offset + len(rows)
    return None
