"""How a page is fetched: the steps for a page by number and for a page by cursor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from dotmac.database.query import _statements
from dotmac.database.query._cursor import decode_cursor, encode_cursor
from dotmac.database.query._keyset import SortKey, after, require_exact
from dotmac.database.query._options import CountMode, CursorPaginationParams, PaginationParams
from dotmac.database.query._pages import (
    CursorPaginationResult,
    PaginationResult,
    number_page,
    total_without_counting,
)
from dotmac.database.query._steps import Execute, Steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Select

    from dotmac.database.models import ModelShape
    from dotmac.database.query._options import Direction

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Cursors:
    """How positions in one order become tokens.

    Attributes:
        shape: The model.
        keys: The total order.
        bound_to: What tokens are bound to; see `fingerprint`.
        secret: Key that signs tokens, if any.
    """

    shape: ModelShape
    keys: tuple[SortKey, ...]
    bound_to: str
    secret: str | bytes | None

    def encode(self, values: Sequence[Any], direction: Direction) -> str:
        """The token for the rows after or before the one with these values of `keys`."""
        return encode_cursor(values, self.bound_to, direction, self.secret)

    def decode(self, token: str) -> tuple[list[Any], Direction]:
        """The position and direction of a token; raises InvalidCursorError."""
        return decode_cursor(token, self.shape, self.keys, self.bound_to, self.secret)


def paged(
    page: Select[Any], selected: Select[Any], params: PaginationParams, dialect: str
) -> Steps[PaginationResult[Any]]:
    """A page by number: ``page`` is ``selected`` in order; one statement, and one to count where needed."""
    result = yield Execute(page.limit(params.per_page + 1).offset(params.offset))
    rows = list(result.scalars())
    if params.count is CountMode.NONE:
        return number_page(rows, params, None)
    known = total_without_counting(rows, params)
    if known is not None:
        return number_page(rows, params, known)
    if params.count is CountMode.ESTIMATE and dialect == "postgresql":
        result = yield Execute(_statements.Explain(selected))
        plan = result.scalar_one()
        return number_page(rows, params, int(plan[0]["Plan"]["Plan Rows"]), total_is_exact=False)
    cap = params.count_cap if params.count is CountMode.CAPPED else None
    result = yield Execute(_statements.counting(selected, cap))
    total = int(result.scalar_one())
    return number_page(rows, params, total, total_is_exact=cap is None or total < cap)


def cursor_paged(
    selected: Select[Any], params: CursorPaginationParams, cursors: Cursors, dialect: str
) -> Steps[CursorPaginationResult[Any]]:
    """A page by cursor: one statement. Backwards, rows are fetched in the opposite order and turned round."""
    require_exact(cursors.keys, dialect)
    walk, direction, position = cursors.keys, "after", None
    if params.cursor is not None:
        position, direction = cursors.decode(params.cursor)
    backwards = direction == "before"
    if backwards:
        walk = tuple(key.reversed() for key in walk)
    if position is not None:
        selected = selected.where(after(walk, position, dialect))
    # Positions are what the database sorted by: an entity may hold changes that are not flushed, or be stale.
    selected = selected.add_columns(*(key.attribute for key in cursors.keys))
    result = yield Execute(_statements.ordered(selected, walk, dialect).limit(params.limit + 1))
    rows = result.all()
    more, rows = len(rows) > params.limit, rows[: params.limit]
    if backwards:
        rows.reverse()
    has_next = bool(rows) and (more or backwards)
    has_prev = bool(rows) and (more if backwards else position is not None)
    return CursorPaginationResult(
        items=[row[0] for row in rows],
        next_cursor=cursors.encode(rows[-1][1:], "after") if has_next else None,
        prev_cursor=cursors.encode(rows[0][1:], "before") if has_prev else None,
        has_next=has_next,
        has_prev=has_prev,
        limit=params.limit,
    )
