"""Everything a repository can do, decided without I/O: generators of steps that a sync or async shell carries out."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sqlalchemy import Select, insert

from dotmac.database.errors import DuplicateEntityError, EntityNotFoundError, ValidationError
from dotmac.database.query import _conflicts, _copy, _statements
from dotmac.database.query._coercion import coerce
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
from dotmac.database.query._pages import CursorPaginationResult, PaginationResult
from dotmac.database.query._paging import Cursors, cursor_paged, paged
from dotmac.database.query._steps import Copy, Delete, Execute, Flush, Steps
from dotmac.database.query._values import DataLike, insert_values, key_of, pop_key, row_of, update_values

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import Dialect
    from sqlalchemy.orm import Session

    from dotmac.database.context import RequestContext
    from dotmac.database.models import ModelShape
    from dotmac.database.tenancy import Scope

M = TypeVar("M")

_KEYS_PER_STATEMENT = 10_000
_PARAMETERS_PER_STATEMENT = 30_000  # asyncpg's limit is 32,767
_ROWS_PER_UNION = 200  # SQLite's SQLITE_MAX_COMPOUND_SELECT is 500


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


class Operations(Generic[M]):
    """The operations of one repository: a model, a scope and a policy.

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
        self.scope = scope
        self.policy = policy
        self._session = session
        self._dialect = dialect
        self._context = context

    @property
    def _dialect_name(self) -> str:
        return self._dialect().name

    # -- reading ---------------------------------------------------------------------------------------------------

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
        """The SELECT behind ``list`` and ``stream``."""
        wanted = as_options(options)
        statement = self._ordered(self._from(wanted), self._order(wanted.sorts))
        if wanted.pagination is not None:
            statement = statement.limit(wanted.pagination.per_page).offset(wanted.pagination.offset)
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

    # -- writing one row -------------------------------------------------------------------------------------------

    def create(self, data: DataLike, user_id: str | None) -> Steps[M]:
        """One INSERT; values the server sets come back with it where the database has RETURNING."""
        entity = self.shape.model(**insert_values(self.shape, self.scope, data, user_id, relationships=True))
        self._session.add(entity)
        yield Flush()
        return entity  # type: ignore[no-any-return]

    def update(self, entity_id: Any, data: DataLike, user_id: str | None) -> Steps[M]:
        """One SELECT, one UPDATE."""
        fields = update_values(self.shape, self.scope, data, user_id)
        self._forbid_key_change(fields, key_of(self.shape, entity_id))
        entity = yield from self.require(entity_id, include_deleted=False)
        for name, value in fields.items():
            setattr(entity, name, value)
        yield Flush()
        return entity

    def delete(self, entity_id: Any, *, soft_delete: bool, user_id: str | None) -> Steps[bool]:
        """One SELECT, one UPDATE or DELETE; False if there is no such row."""
        soft = soft_delete and self.shape.deleted_at is not None
        entity = yield from self.get_by_id(entity_id, include_deleted=not soft, load=())
        if entity is None:
            return False
        if soft:
            self._mark(entity, datetime.now(UTC), user_id)
        else:
            yield Delete(entity)
        yield Flush()
        return True

    def restore(self, entity_id: Any, user_id: str | None) -> Steps[M]:
        """One SELECT, one UPDATE."""
        self._require_soft_delete("restore")
        entity = yield from self.require(entity_id, include_deleted=True)
        self._mark(entity, None, user_id)
        yield Flush()
        return entity

    def _mark(self, entity: Any, now: datetime | None, user_id: str | None) -> None:
        changed = _statements.soft_delete_values(self.shape, now)
        for name, value in (changed | self._author(user_id)).items():
            setattr(entity, name, value)

    def _author(self, user_id: str | None) -> dict[str, Any]:
        return {"updated_by": user_id} if user_id is not None and "updated_by" in self.shape.columns else {}

    def _require_soft_delete(self, verb: str) -> None:
        if self.shape.deleted_at is None:
            raise ValidationError(
                f"{self.shape.name} has no soft delete: there is nothing to {verb}. Add SoftDeleteMixin to it.",
                model=self.shape.name,
            )

    def _forbid_key_change(self, fields: dict[str, Any], key: tuple[Any, ...]) -> None:
        for attribute, part in zip(self.shape.key, key, strict=True):
            if fields.pop(attribute.key, part) != part:
                raise ValidationError(
                    f"{self.shape.name}.{attribute.key} is the key of the row and cannot change.",
                    model=self.shape.name,
                    field=attribute.key,
                )

    # -- writing many rows -----------------------------------------------------------------------------------------

    def bulk_create(self, items: Iterable[DataLike], user_id: str | None) -> Steps[builtins.list[M]]:
        """One INSERT per about a thousand rows (insertmanyvalues); entities in the order given."""
        rows = [insert_values(self.shape, self.scope, item, user_id) for item in items]
        if not rows:
            return []
        if not self._dialect().insert_executemany_returning:
            return (yield from self._create_without_returning(rows))
        statement = insert(self.shape.model).returning(self.shape.model, sort_by_parameter_order=True)
        result = yield Execute(statement, rows)
        return builtins.list(result.scalars())

    def _create_without_returning(self, rows: builtins.list[dict[str, Any]]) -> Steps[builtins.list[M]]:
        complete = _copy.with_client_defaults(self.shape, rows, self._context())
        if any(row.get(part.key) is None for row in complete for part in self.shape.key):
            entities = [self.shape.model(**row) for row in rows]  # keys the server gives: one INSERT each
            self._session.add_all(entities)
            yield Flush()
            return entities
        yield Execute(insert(self.shape.model), complete)
        keys = [tuple(row[part.key] for part in self.shape.key) for row in complete]
        found = yield from self._load(keys, include_deleted=True)
        return [found[key] for key in keys]

    def bulk_insert(self, items: Iterable[DataLike], user_id: str | None) -> Steps[int]:
        """Like `bulk_create`, without entities: COPY on PostgreSQL for large batches. The number of rows."""
        rows = [insert_values(self.shape, self.scope, item, user_id) for item in items]
        if not rows:
            return 0
        if self._dialect_name == "postgresql" and _copy.can_copy(rows):
            copied = yield from self._copy_in(rows)
            if copied:
                return len(rows)
        yield Execute(insert(self.shape.model), rows)
        return len(rows)

    def _copy_in(self, rows: builtins.list[dict[str, Any]]) -> Steps[bool]:
        for names, records in _copy.batches(self.shape, rows, self._dialect(), self._context()):
            copied = yield Copy(self.shape.table, names, records)
            if not copied:  # only ever the first: the whole table allows it or not
                return False
        return True

    def bulk_update(self, updates: Iterable[DataLike], user_id: str | None) -> Steps[int]:
        """One UPDATE per set of fields and some thousand rows. The number of rows changed."""
        changes: builtins.list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        for item in updates:
            fields = update_values(self.shape, self.scope, item, user_id)
            changes.append((pop_key(self.shape, fields), fields))
        self._forbid_repeats([key for key, _ in changes])
        changed = 0
        by_names = sorted(
            ((tuple(sorted(fields)), key, fields) for key, fields in changes if fields),
            key=lambda item: item[0],
        )
        for names, group in groupby(by_names, key=lambda item: item[0]):
            rows = [(*key, *(fields[name] for name in names)) for _, key, fields in group]
            for part in _chunks(rows, self._rows_per_statement(len(names))):
                statement = _statements.update_from_rows(
                    self.shape, self.scope, names, part, self._dialect_name
                )
                result = yield Execute(statement)
                changed += result.rowcount
        yield from self._refresh_loaded([key for key, _ in changes])
        return changed

    def _rows_per_statement(self, names: int) -> int:
        if self._dialect_name != "postgresql":
            return _ROWS_PER_UNION
        return max(1, _PARAMETERS_PER_STATEMENT // (names + len(self.shape.key)))

    def bulk_delete(self, entity_ids: Iterable[Any], *, soft_delete: bool, user_id: str | None) -> Steps[int]:
        """One UPDATE or DELETE per ten thousand keys. The number of rows deleted."""
        keys = [key_of(self.shape, entity_id) for entity_id in entity_ids]
        soft = soft_delete and self.shape.deleted_at is not None
        deleted = 0
        for part in _chunks(keys, _KEYS_PER_STATEMENT):
            if soft:
                changed = _statements.soft_delete_values(self.shape, datetime.now(UTC)) | self._author(
                    user_id
                )
                statement: Any = _statements.update_by_keys(self.shape, self.scope, part, changed)
            else:
                statement = _statements.delete_by_keys(self.shape, self.scope.including_deleted(), part)
            result = yield Execute(statement)
            deleted += result.rowcount
        if soft:
            yield from self._refresh_loaded(keys)
        return deleted

    def _refresh_loaded(self, keys: Sequence[tuple[Any, ...]]) -> Steps[None]:
        """Entities the session holds show what a set-based statement did to them."""
        wanted = set(map(_hashable, keys))
        loaded = [
            key
            for entity in builtins.list(self._session.identity_map.values())
            if isinstance(entity, self.shape.model)
            and _hashable(key := tuple(row_of(self.shape, entity).get(part.key) for part in self.shape.key))
            in wanted
        ]
        if loaded:
            yield from self._load(loaded, include_deleted=True)

    def _load(self, keys: Sequence[tuple[Any, ...]], *, include_deleted: bool) -> Steps[dict[Any, M]]:
        scope, found = self.scope.including_deleted(include_deleted), {}
        for part in _chunks(keys, _KEYS_PER_STATEMENT):
            result = yield Execute(
                _statements.by_keys(self.shape, scope, part), options={"populate_existing": True}
            )
            for entity in result.scalars():
                found[tuple(getattr(entity, attribute.key) for attribute in self.shape.key)] = entity
        return found

    # -- writing what may exist ------------------------------------------------------------------------------------

    def get_or_create(
        self, lookup: Mapping[str, Any], defaults: Mapping[str, Any] | None, user_id: str | None
    ) -> Steps[tuple[M, bool]]:
        """At most three statements; safe among concurrent callers where a unique constraint covers ``lookup``."""
        if not lookup:
            raise ValidationError(
                f"{self.shape.name}: get_or_create needs fields to look up.", model=self.shape.name
            )
        filters = [QueryFilter(field=name, value=value) for name, value in lookup.items()]
        dialect = self._dialect_name
        found = self._select(filters, include_deleted=False).limit(2)
        if dialect != "sqlite":
            # SQLite inserts first: a transaction that has read cannot become a writer once another one wrote
            # (SQLITE_BUSY_SNAPSHOT).
            result = yield Execute(found)
            entity = result.scalars().first()
            if entity is not None:
                return entity, False
        row = insert_values(self.shape, self.scope, {**(defaults or {}), **lookup}, user_id)
        _conflicts.require_unique(self.shape, set(lookup))
        [complete] = _copy.with_client_defaults(self.shape, [row], self._context())
        inserted = yield Execute(_conflicts.insert_or_ignore(self.shape, complete, dialect))
        # Sees the row that won also where this transaction reads from a snapshot taken before it.
        current = found.with_for_update(read=True) if dialect in {"mysql", "mariadb"} else found
        result = yield Execute(current)
        entity = result.scalars().first()
        if entity is None:
            raise DuplicateEntityError(
                self.shape.name,
                None,
                hint="The row that holds them is deleted, or belongs to another tenant.",
            )
        keys = (
            tuple(getattr(entity, part.key) for part in self.shape.key),
            tuple(complete.get(part.key) for part in self.shape.key),
        )
        return entity, _conflicts.was_inserted(inserted, *keys, dialect)

    def upsert(
        self, data: DataLike, match: Sequence[str] | None, update: Sequence[str] | None, user_id: str | None
    ) -> Steps[M]:
        """One statement (two on MySQL)."""
        [entity] = yield from self.upsert_many([data], match, update, user_id)
        return entity

    def upsert_many(
        self,
        items: Iterable[DataLike],
        match: Sequence[str] | None,
        update: Sequence[str] | None,
        user_id: str | None,
    ) -> Steps[builtins.list[M]]:
        """One statement per about a thousand rows and set of fields; entities in the order given."""
        rows = [insert_values(self.shape, self.scope, item, user_id) for item in items]
        if not rows:
            return []
        given = set(rows[0]).intersection(*map(set, rows[1:]))
        target = _conflicts.conflict_target(self.shape, match, given)
        rows = _copy.with_client_defaults(self.shape, rows, self._context())
        identities = [self._match_values(target, row) for row in rows]
        self._forbid_repeats(identities)
        # In the order of their keys: two batches that overlap then wait for each other instead of deadlocking.
        order = sorted(range(len(rows)), key=lambda index: str(identities[index]))
        found: dict[Any, M] = {}
        for names, group in groupby(sorted((tuple(rows[i]), i) for i in order), key=lambda item: item[0]):
            part = [rows[index] for _, index in group]
            yield from self._upsert_part(part, names, given, target, update, found)
        missing = [identity for identity in identities if _hashable(identity) not in found]
        if missing:
            raise DuplicateEntityError(
                self.shape.name,
                None,
                hint=f"{len(missing)} of {len(rows)} rows meet one that is deleted or belongs to another tenant.",
            )
        return [found[_hashable(identity)] for identity in identities]

    def _upsert_part(
        self,
        rows: builtins.list[dict[str, Any]],
        names: tuple[str, ...],
        given: set[str],
        target: _conflicts.ConflictTarget,
        update: Sequence[str] | None,
        found: dict[Any, M],
    ) -> Steps[None]:
        changed, extra = self._upsert_changes(names, given, target, update)
        dialect = self._dialect()
        statement: Any = _conflicts.insert_or_update(
            self.shape, self.scope, target, changed, extra, dialect.name
        )
        if dialect.name in {"postgresql", "sqlite"}:
            statement = statement.returning(self.shape.model)
            result = yield Execute(statement, rows, {"populate_existing": True})
        else:
            yield Execute(statement, rows)
            wanted = [self._match_values(target, row) for row in rows]
            result = yield Execute(
                _conflicts.by_match(self.shape, self.scope, target, wanted),
                options={"populate_existing": True},
            )
        for entity in result.scalars():
            identity = tuple(getattr(entity, name) for name in target.fields)
            found[_hashable(identity)] = entity

    def _upsert_changes(
        self,
        names: Sequence[str],
        given: set[str],
        target: _conflicts.ConflictTarget,
        update: Sequence[str] | None,
    ) -> tuple[builtins.list[str], dict[str, Any]]:
        if update is not None:
            for name in update:
                if name not in names:
                    raise ValidationError(
                        f"{self.shape.name}: upsert cannot update {name!r}, which the data does not hold.",
                        model=self.shape.name,
                        field=name,
                    )
        key = {attribute.key for attribute in self.shape.identity}
        kept = key | set(target.fields) | {"created_by"}
        changed = [
            name for name in (update if update is not None else names) if name in given and name not in kept
        ]
        extra: dict[str, Any] = {}
        for name, attribute in self.shape.columns.items():
            onupdate = attribute.property.columns[0].onupdate
            if onupdate is None or name in changed:
                continue
            if onupdate.is_clause_element:
                extra[name] = onupdate.arg
            elif name in names:
                changed.append(name)  # its value came with the client's defaults
        return changed, extra

    def _match_values(self, target: _conflicts.ConflictTarget, row: Mapping[str, Any]) -> tuple[Any, ...]:
        values = tuple(
            coerce(self.shape.columns[name], row.get(name), model=self.shape.name) for name in target.fields
        )
        if None in values:
            raise ValidationError(
                f"{self.shape.name}: an upsert needs a value for each of ({', '.join(target.fields)}).",
                model=self.shape.name,
            )
        return values

    def _forbid_repeats(self, keys: Sequence[tuple[Any, ...]]) -> None:
        seen: dict[Any, int] = {}
        for position, key in enumerate(keys):
            first = seen.setdefault(_hashable(key), position)
            if first != position:
                raise ValidationError(
                    f"{self.shape.name}: rows {first} and {position} of the batch (from 0) have the same key; "
                    "which one should win is unclear.",
                    model=self.shape.name,
                )

    # -- building --------------------------------------------------------------------------------------------------

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

    def _ordered(self, statement: Select[Any], keys: Sequence[SortKey]) -> Select[Any]:
        return _statements.ordered(statement, keys, self._dialect_name)


def _chunks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    remaining = iter(items)
    while part := list(islice(remaining, size)):
        yield part


def _hashable(key: tuple[Any, ...]) -> Any:
    return tuple(tuple(part) if isinstance(part, list) else part for part in key)
