"""Pages of any SELECT of a model, not only of a repository's: faces over the same statements.

Each method takes a ``Session`` or an ``AsyncSession``; with the latter its result is awaited.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select
from sqlalchemy.orm import Query

from dotmac.database.models import ModelShape, describe
from dotmac.database.query import (
    CountMode,
    CursorPaginationParams,
    Cursors,
    Execute,
    PaginationParams,
    SortField,
    SortKey,
    SortOrder,
    Steps,
    counting,
    cursor_paged,
    deferred_join,
    encode_value,
    ordered,
    paged,
    seal,
    total_order,
    unseal,
)
from dotmac.database.repository._drive import drive, drive_async

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Dialect


class PaginationHelper:
    """Page arithmetic, and opaque tokens for positions of your own."""

    @staticmethod
    def encode_cursor(values: Any, secret: str | bytes | None = None) -> str:
        """A url-safe token for a value, a list or a mapping of column values."""
        return seal(_scalars(values), secret)

    @staticmethod
    def decode_cursor(token: str, secret: str | bytes | None = None) -> Any:
        """What `encode_cursor` was given, with dates, UUIDs and decimals as text.

        Raises:
            InvalidCursorError: The token is damaged or wrongly signed.
        """
        return unseal(token, secret)

    @staticmethod
    def calculate_pages(total: int, per_page: int) -> int:
        """How many pages ``total`` rows fill."""
        return -(-total // per_page)


def _scalars(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _scalars(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_scalars(value) for value in values]
    return encode_value(values)


class DatabasePaginator:
    """Pages of a ``select(Model)`` of your own making, or of a legacy ``session.query(Model)``."""

    @staticmethod
    def paginate(
        session: Any,
        query: Select[Any] | Query[Any],
        page: int = 1,
        per_page: int = 20,
        count: CountMode = CountMode.EXACT,
    ) -> Any:
        """A `PaginationResult`; the primary key is appended to the query's own order."""
        query = _select_of(query)
        shape = _model_of(query)
        dialect = _dialect(session, shape).name
        params = PaginationParams(page=page, per_page=per_page, count=count)
        return _run(
            session, paged(ordered(query, total_order(shape, ()), dialect), query, params, dialect), shape
        )

    @staticmethod
    def cursor_paginate(
        session: Any,
        query: Select[Any] | Query[Any],
        limit: int = 20,
        cursor: str | None = None,
        sorts: Sequence[SortField] = (),
        secret: str | bytes | None = None,
    ) -> Any:
        """A `CursorPaginationResult`. ``sorts`` make the order: the query must have none of its own.

        Raises:
            ValueError: The query has an ORDER BY.
            InvalidCursorError: The cursor is damaged, wrongly signed, or of another query.
        """
        query = _select_of(query)
        if query._order_by_clauses:  # noqa: SLF001 - SQLAlchemy has no public reading of ORDER BY
            raise ValueError(
                "Leave ORDER BY out of the query and pass sorts=[SortField(…)]: a cursor is a position in them."
            )
        shape = _model_of(query)
        dialect = _dialect(session, shape)
        keys = total_order(shape, sorts)
        params = CursorPaginationParams(limit=limit, cursor=cursor)
        cursors = Cursors(shape, keys, _fingerprint(query, keys, dialect), secret)
        return _run(session, cursor_paged(query, params, cursors, dialect.name), shape)


class PerformancePaginator:
    """Pages of large tables, as ``(items, total)``."""

    @staticmethod
    def paginate_with_count_estimate(
        session: Any,
        query: Select[Any] | Query[Any],
        page: int = 1,
        per_page: int = 20,
        count_threshold: int = 10_000,
    ) -> Any:
        """Rows and their total: exact up to ``count_threshold`` rows, beyond it the planner's estimate (PostgreSQL)."""
        query = _select_of(query)
        shape = _model_of(query)
        dialect = _dialect(session, shape).name
        return _run(session, _estimated(query, shape, dialect, page, per_page, count_threshold), shape)

    @staticmethod
    def deep_pagination_optimize(
        session: Any,
        query: Select[Any] | Query[Any],
        page: int = 1,
        per_page: int = 20,
        cursor_field: str | None = None,
    ) -> Any:
        """Rows and their exact total; keys are found first, so that skipped rows are never read in full.

        For pages far from the start prefer cursors: their cost does not grow.

        Raises:
            ValueError: The query is ordered by something other than the model's own columns.
        """
        query = _select_of(query)
        shape = _model_of(query)
        dialect = _dialect(session, shape).name
        return _run(
            session,
            _deferred(query, shape, dialect, PaginationParams(page=page, per_page=per_page), cursor_field),
            shape,
        )


def _estimated(
    query: Select[Any], shape: ModelShape, dialect: str, page: int, per_page: int, threshold: int
) -> Steps[tuple[list[Any], int]]:
    page_of = ordered(query, total_order(shape, ()), dialect)
    capped = PaginationParams(page=page, per_page=per_page, count=CountMode.CAPPED, count_cap=threshold)
    result = yield from paged(page_of, query, capped, dialect)
    if not result.total_is_exact:
        estimate = capped.model_copy(update={"count": CountMode.ESTIMATE})
        result = yield from paged(page_of, query, estimate, dialect)
    return result.items, max(result.total or 0, 0)


def _deferred(
    query: Select[Any], shape: ModelShape, dialect: str, params: PaginationParams, cursor_field: str | None
) -> Steps[tuple[list[Any], int]]:
    sorts = [SortField(field=cursor_field, order=SortOrder.ASC)] if cursor_field else []
    keys = total_order(shape, sorts)
    found = yield Execute(counting(query))
    total = int(found.scalar_one())
    inner = ordered(query, keys, dialect).limit(params.per_page).offset(params.offset)
    result = yield Execute(deferred_join(shape, inner))
    return list(result.scalars()), total


def _fingerprint(query: Select[Any], keys: Sequence[SortKey], dialect: Dialect) -> str:
    compiled = query.compile(dialect=dialect)
    order = [(key.name, key.descending, key.nulls_first) for key in keys]
    parts = f"{compiled}|{sorted(compiled.params.items())!r}|{order}"
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def _run(session: Any, steps: Steps[Any], shape: ModelShape) -> Any:
    return (drive_async if _is_async(session) else drive)(session, steps, shape)


def _is_async(session: Any) -> bool:
    return hasattr(session, "sync_session")


def _dialect(session: Any, shape: ModelShape) -> Dialect:
    dialect: Dialect = getattr(session, "sync_session", session).get_bind(shape.mapper).dialect
    return dialect


def _select_of(query: Select[Any] | Query[Any]) -> Select[Any]:
    statement = query.statement if isinstance(query, Query) else query
    if not isinstance(statement, Select):
        raise TypeError("A paginator needs a select() of one model: select(User).where(…).")
    return statement


def _model_of(query: Select[Any]) -> ModelShape:
    entity = query.column_descriptions[0]["entity"] if len(query.column_descriptions) == 1 else None
    if entity is None:
        raise TypeError("A paginator needs a select() of one model: select(User).where(…).")
    return describe(entity)
