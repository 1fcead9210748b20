"""Writing rows, decided without I/O: one at a time through the ORM, many by set-based statements."""

from __future__ import annotations

import builtins
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import insert, select
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.orm import load_only

from dotmac.database.errors import QueryError, ValidationError
from dotmac.database.query import _copy, _statements
from dotmac.database.query._reading import Reading, chunks, keys_per_statement
from dotmac.database.query._steps import Copy, Delete, Execute, Flush, Steps
from dotmac.database.query._values import (
    DataLike,
    insert_rows,
    insert_values,
    is_sql,
    key_in_identity,
    key_of,
    new_entity,
    pop_key,
    update_values,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

M = TypeVar("M")

_PARAMETERS_PER_STATEMENT = 30_000  # asyncpg's limit is 32,767
_ROWS_PER_UNION = 200  # SQLite's SQLITE_MAX_COMPOUND_SELECT is 500


class Writing(Reading[M]):
    """The writes of one repository; see `Reading` for its arguments."""

    def create(self, data: DataLike, user_id: str | None) -> Steps[M]:
        """One INSERT; values the server sets come back with it where the database has RETURNING."""
        values = insert_values(self.shape, self.scope, data, user_id, relationships=True)
        entity = new_entity(self.shape, values)
        self._session.add(entity)
        yield from self._flushed(entity)
        return entity  # type: ignore[no-any-return]

    def update(self, entity_id: Any, data: DataLike, user_id: str | None) -> Steps[M]:
        """One SELECT, one UPDATE (and one SELECT where the server sets values that the UPDATE does not return)."""
        fields = update_values(self.shape, self.scope, data, user_id)
        self._forbid_key_change(fields, key_of(self.shape, entity_id))
        entity = yield from self.require(entity_id, include_deleted=False)
        for name, value in fields.items():
            setattr(entity, name, value)
        yield from self._flushed(entity)
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
        yield from self._flushed(entity)
        return entity

    def _flushed(self, entity: Any) -> Steps[None]:
        """Flush; values the server has set and not returned are read, as an attribute of an async session cannot."""
        yield Flush()
        state = sa_inspect(entity)
        if not state.expired_attributes:
            return
        attributes = [
            self.shape.columns[name] for name in state.expired_attributes & self.shape.columns.keys()
        ]
        if attributes:
            whole = (part == value for part, value in zip(self.shape.identity, state.identity, strict=True))
            yield Execute(select(self.shape.model).where(*whole).options(load_only(*attributes)))

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

    def _forbid_several_tables(self, verb: str) -> None:
        if len(self.shape.mapper.tables) > 1:
            raise QueryError(
                f"{self.shape.name} is spread over several tables (joined inheritance): {verb} writes one table. "
                "Write such rows one at a time."
            )

    def _flush_pending(self) -> Steps[None]:
        """What the session holds unwritten comes before a set-based statement, whose result would overwrite it."""
        if self._session.dirty:
            yield Flush()

    def _forbid_key_change(self, fields: dict[str, Any], key: tuple[Any, ...]) -> None:
        for name, part in zip(self.shape.key_names, key, strict=True):
            if fields.pop(name, part) != part:
                raise ValidationError(
                    f"{self.shape.name}.{name} is the key of the row and cannot change.",
                    model=self.shape.name,
                    field=name,
                )

    def bulk_create(self, items: Iterable[DataLike], user_id: str | None) -> Steps[builtins.list[M]]:
        """Few rows: one INSERT (insertmanyvalues). Many, or without RETURNING: written, then read by their keys."""
        rows = insert_rows(self.shape, self.scope, items, user_id)
        if not rows:
            return []
        rows = _copy.with_client_defaults(self.shape, rows, self._context())
        keys = [tuple(row.get(name) for name in self.shape.key_names) for row in rows]
        keys_known = not any(None in key for key in keys)
        if self._dialect().insert_executemany_returning and not (keys_known and self._may_copy(rows)):
            statement = insert(self.shape.model).returning(self.shape.model, sort_by_parameter_order=True)
            result = yield Execute(statement, rows)
            return builtins.list(result.scalars())
        if not keys_known:
            entities = [new_entity(self.shape, row) for row in rows]  # the server makes the keys
            self._session.add_all(entities)
            yield Flush()
            return entities
        yield from self._send(rows)
        found = yield from self._load(keys, include_deleted=True)
        return [found[key] for key in keys]

    def bulk_insert(self, items: Iterable[DataLike], user_id: str | None) -> Steps[int]:
        """Like `bulk_create`, without entities; the number of rows."""
        rows = insert_rows(self.shape, self.scope, items, user_id)
        if rows:
            yield from self._send(rows)
        return len(rows)

    def _may_copy(self, rows: builtins.list[dict[str, Any]]) -> bool:
        return self._dialect_name == "postgresql" and _copy.can_copy(self.shape, rows)

    def _send(self, rows: builtins.list[dict[str, Any]]) -> Steps[None]:
        """COPY where it is worth it and allowed, else INSERT."""
        if self._may_copy(rows):
            copied = True
            for names, records in _copy.batches(self.shape, rows, self._dialect(), self._context()):
                copied = yield Copy(self.shape.table, names, records)
                if not copied:  # only ever the first: the whole table allows it or not
                    break
            if copied:
                return
        yield Execute(insert(self.shape.model), rows)

    def bulk_update(self, updates: Iterable[DataLike], user_id: str | None) -> Steps[int]:
        """One UPDATE per set of fields and some thousand rows. The number of rows changed."""
        self._forbid_several_tables("bulk_update")
        changes: builtins.list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        for item in updates:
            fields = update_values(self.shape, self.scope, item, user_id)
            if any(map(is_sql, fields.values())):
                raise ValidationError(
                    f"{self.shape.name}: bulk_update takes values, not SQL expressions.",
                    model=self.shape.name,
                )
            changes.append((pop_key(self.shape, fields), fields))
        self._forbid_repeats([key for key, _ in changes])
        yield from self._flush_pending()
        changed = 0
        by_names = sorted(
            ((tuple(sorted(fields)), key, fields) for key, fields in changes if fields),
            key=lambda item: item[0],
        )
        for names, group in groupby(by_names, key=lambda item: item[0]):
            rows = [(*key, *(fields[name] for name in names)) for _, key, fields in group]
            for part in chunks(rows, self._rows_per_statement(len(names))):
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
        self._forbid_several_tables("bulk_delete")
        yield from self._flush_pending()
        keys = [key_of(self.shape, entity_id) for entity_id in entity_ids]
        soft = soft_delete and self.shape.deleted_at is not None
        deleted = 0
        for part in chunks(keys, keys_per_statement(self.shape)):
            if soft:
                changed = _statements.soft_delete_values(self.shape, datetime.now(UTC)) | self._author(
                    user_id
                )
                statement: Any = _statements.update_by_keys(
                    self.shape, self.scope, part, changed, self._dialect_name
                )
            else:
                statement = _statements.delete_by_keys(
                    self.shape, self.scope.including_deleted(), part, self._dialect_name
                )
            result = yield Execute(statement)
            deleted += result.rowcount
        if soft:
            yield from self._refresh_loaded(keys)
        return deleted

    def _refresh_loaded(self, keys: Sequence[tuple[Any, ...]]) -> Steps[None]:
        """Entities the session holds show what a set-based statement did to them."""
        wanted = set(map(hashable, keys))
        loaded = [
            key
            for entity in builtins.list(self._session.identity_map.values())
            if isinstance(entity, self.shape.model)
            and hashable(key := key_in_identity(self.shape, sa_inspect(entity).identity)) in wanted
        ]
        if loaded:
            yield from self._load(loaded, include_deleted=True)

    def _forbid_repeats(self, keys: Sequence[tuple[Any, ...]]) -> None:
        seen: dict[Any, int] = {}
        for position, key in enumerate(keys):
            first = seen.setdefault(hashable(key), position)
            if first != position:
                raise ValidationError(
                    f"{self.shape.name}: rows {first} and {position} of the batch (from 0) have the same key; "
                    "which one should win is unclear.",
                    model=self.shape.name,
                )


def hashable(key: tuple[Any, ...]) -> Any:
    """A key that may hold lists, usable in sets."""
    return tuple(tuple(part) if isinstance(part, list) else part for part in key)
