"""Reading rows, decided without I/O: what a repository may see, and the steps that fetch it."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dotmac.database.errors import EntityNotFoundError, TenantError
from dotmac.database.query import _statements
from dotmac.database.query._cursor import fingerprint
from dotmac.database.query._keyset import SortKey, total_order
from dotmac.database.query._options import (
    CursorPaginationParams,
    Filter,
    OptionsLike,
    PaginationParams,
    QueryFilter,
    QueryOptions,
    SortField,
    as_options,
)
from dotmac.database.query._paging import Cursors, cursor_paged, paged
from dotmac.database.query._steps import Execute, Steps
from dotmac.database.query._values import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from sqlalchemy import Dialect, Select
    from sqlalchemy.orm import Session

    from dotmac.database.context import RequestContext
    from dotmac.database.models import ModelShape
    from dotmac.database.query._pages import CursorPaginationResult, PaginationResult
    from dotmac.database.tenancy import Scope

M = TypeVar("M")

_KEYS_PER_STATEMENT = 10_000
_COMPOSITE_KEYS_PER_STATEMENT = 1_000  # the server's parser nests a comparison of rows per key


@dataclass(frozen=True, slots=True)
class Policy:
    """What a repository allows.

    Attributes:
        filterable: Fields that may be filtered, or None for all.
        sortable: Fields that may be sorted, or None for all.
        cursor_secret: Key that signs page cursors, or None for unsigned ones.
    """

    filterable: Collection[str] | None = None
    sortable: Collection[str] | None = None
    cursor_secret: str | bytes | None = None


class Reading(Generic[M]):
    """The reads of one repository: a model, a scope and a policy.

    Args:
        shape: The model.
        scope: What may be seen and written.
        policy: What may be filtered and sorted.
        session: The session's synchronous face; used for what needs no I/O (identity map, pending objects).
        dialect: Gives the database's dialect; asked on first use.
        context: Gives the context that authors are taken from.
    """

    def __init__(
        self,
        shape: ModelShape,
        scope: Scope,
        policy: Policy,
        session: Session,
        dialect: Callable[[], Dialect],
        context: Callable[[], RequestContext],
    ) -> None:
        self.shape = shape
        self._scope = scope
        self.policy = policy
        self._session = session
        self._dialect = dialect
        self._context = context

    @property
    def scope(self) -> Scope:
        """What may be seen and written, as long as the session serves whom the repository was made for.

        Raises:
            TenantError: It was bound to another tenant since.
        """
        mine, bound = self._scope.tenant_id, self._context().tenant_id
        if bound != mine and bound is not None and mine is not None:
            raise TenantError(
                f"This repository of {self.shape.name} was made for tenant {mine!r}, and its session serves another one by "
                f"now. Make a repository for the session as it is."
            )
        return self._scope

    @property
    def _dialect_name(self) -> str:
        return self._dialect().name

    def get_by_id(self, entity_id: Any, *, include_deleted: bool, load: Sequence[str]) -> Steps[M | None]:
        """One statement."""
        scope = self.scope.including_deleted(include_deleted)
        statement, parameters = _statements.by_key(self.shape, scope, key_of(self.shape, entity_id))
        if load:
            statement = statement.options(*_statements.eager(self.shape, scope, load))
        result = yield Execute(statement, parameters)
        return result.scalar_one_or_none()  # type: ignore[no-any-return]

    def require(self, entity_id: Any, *, include_deleted: bool, load: Sequence[str] = ()) -> Steps[M]:
        """One statement; raises EntityNotFoundError."""
        entity = yield from self.get_by_id(entity_id, include_deleted=include_deleted, load=load)
        if entity is None:
            raise EntityNotFoundError(self.shape.name, entity_id)
        return entity

    def get_by_field(self, field: str, value: Any, *, include_deleted: bool) -> Steps[M | None]:
        """One statement."""
        statement = self._select([QueryFilter(field=field, value=value)], include_deleted=include_deleted)
        result = yield Execute(self._ordered(statement, self._order(())).limit(1))
        return result.scalars().first()  # type: ignore[no-any-return]

    def list(self, options: OptionsLike) -> Steps[builtins.list[M]]:
        """One statement."""
        result = yield Execute(self.list_statement(options))
        return builtins.list(result.scalars())

    def list_statement(self, options: OptionsLike) -> Select[Any]:
        """The SELECT behind ``list``."""
        wanted = as_options(options)
        statement = self._ordered(self._from(wanted), self._order(wanted.sorts))
        if wanted.pagination is not None:
            statement = statement.limit(wanted.pagination.per_page)
            if wanted.pagination.offset:
                statement = statement.offset(wanted.pagination.offset)
        return statement

    def stream_statement(self, options: OptionsLike) -> Select[Any]:
        """Same as `list_statement`; what the mapping loads by a join comes batch by batch, as a join has no batches."""
        statement = self.list_statement(options)
        if self.shape.joins_eagerly:
            statement = statement.options(*_statements.instead_of_joins(self.shape))
        return statement

    def count(self, filters: Iterable[Filter], *, include_deleted: bool) -> Steps[int]:
        """One statement."""
        result = yield Execute(_statements.counting(self._select(filters, include_deleted=include_deleted)))
        return int(result.scalar_one())

    def exists(self, filters: Iterable[Filter], *, include_deleted: bool) -> Steps[bool]:
        """One statement."""
        result = yield Execute(_statements.any_row(self._select(filters, include_deleted=include_deleted)))
        return bool(result.scalar_one())

    def list_paginated(self, options: OptionsLike) -> Steps[PaginationResult[M]]:
        """One statement, and one more where the total is wanted and the page does not tell it."""
        wanted = as_options(options)
        params = wanted.pagination or PaginationParams()
        selected = self._from(wanted)
        page = self._ordered(selected, self._order(wanted.sorts))
        return (yield from paged(page, selected, params, self._dialect_name))

    def cursor_paginate(self, options: OptionsLike) -> Steps[CursorPaginationResult[M]]:
        """One statement, whose cost does not grow with the position."""
        wanted = as_options(options)
        params = wanted.cursor_pagination or CursorPaginationParams()
        sorts = wanted.sorts
        if not sorts and params.cursor_field is not None:
            sorts = (SortField(field=params.cursor_field, order=params.order),)
        keys = self._order(sorts)
        scope = self.scope.including_deleted(wanted.include_deleted)
        cursors = Cursors(
            self.shape, keys, fingerprint(self.shape, keys, wanted, scope), self.policy.cursor_secret
        )
        return (yield from cursor_paged(self._from(wanted), params, cursors, self._dialect_name))

    def _load(self, keys: Sequence[tuple[Any, ...]], *, include_deleted: bool) -> Steps[dict[Any, M]]:
        scope, found = self.scope.including_deleted(include_deleted), {}
        for part in chunks(keys, keys_per_statement(self.shape)):
            result = yield Execute(
                _statements.by_keys(self.shape, scope, part, self._dialect_name),
                options={"populate_existing": True},
            )
            for entity in result.scalars():
                found[tuple(getattr(entity, name) for name in self.shape.key_names)] = entity
        return found

    def _select(self, filters: Iterable[Filter], *, include_deleted: bool) -> Select[Any]:
        return _statements.matching(
            self.shape, self.scope.including_deleted(include_deleted), filters, self.policy.filterable
        )

    def _from(self, wanted: QueryOptions) -> Select[Any]:
        statement = self._select(wanted.filters, include_deleted=wanted.include_deleted)
        if wanted.load:
            scope = self.scope.including_deleted(wanted.include_deleted)
            statement = statement.options(*_statements.eager(self.shape, scope, wanted.load))
        return statement

    def _order(self, sorts: Sequence[SortField]) -> tuple[SortKey, ...]:
        return total_order(self.shape, sorts, self.policy.sortable)

    def _ordered(self, statement: Select[Any], keys: tuple[SortKey, ...]) -> Select[Any]:
        return _statements.ordered(statement, keys, self._dialect_name)


def keys_per_statement(shape: ModelShape) -> int:
    """How many keys one statement names."""
    return _KEYS_PER_STATEMENT if len(shape.key) == 1 else _COMPOSITE_KEYS_PER_STATEMENT


def chunks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """``items`` in lists of at most ``size``."""
    remaining = iter(items)
    while part := list(islice(remaining, size)):
        yield part
