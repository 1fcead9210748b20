"""Writing rows that may exist already, decided without I/O: atomic, whoever else is writing."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from dotmac.database.errors import DuplicateEntityError, ValidationError
from dotmac.database.query import _conflicts, _copy, _statements
from dotmac.database.query._coercion import coerce
from dotmac.database.query._options import QueryFilter
from dotmac.database.query._steps import Execute, Steps
from dotmac.database.query._values import DataLike, insert_rows, insert_values
from dotmac.database.query._writing import Writing, hashable

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable, Mapping, Sequence

M = TypeVar("M")


class Operations(Writing[M]):
    """Everything one repository can do; see `Reading` for its arguments."""

    def get_or_create(
        self, lookup: Mapping[str, Any], defaults: Mapping[str, Any] | None, user_id: str | None
    ) -> Steps[tuple[M, bool]]:
        """At most three statements (four on SQLite); safe among concurrent callers, as a unique constraint covers ``lookup``."""
        if not lookup:
            raise ValidationError(
                f"{self.shape.name}: get_or_create needs fields to look up.", model=self.shape.name
            )
        filters = [QueryFilter(field=name, value=value) for name, value in lookup.items()]
        dialect = self._dialect_name
        found = _statements.matching(self.shape, self.scope, filters).limit(2)
        self._forbid_several_tables("get_or_create")
        # NULLs are not equal to each other: they make no row unique.
        _conflicts.require_unique(self.shape, {name for name, value in lookup.items() if value is not None})
        if dialect == "sqlite":
            # A transaction that has read cannot become a writer once another one wrote (SQLITE_BUSY_SNAPSHOT): an
            # UPDATE of nothing waits for its turn to write before anything is read.
            yield Execute(_conflicts.become_writer(self.shape))
        result = yield Execute(found)
        entity = result.scalars().first()
        if entity is not None:
            return entity, False
        row = insert_values(self.shape, self.scope, {**(defaults or {}), **lookup}, user_id)
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
                hint="The row that holds one of them is deleted, belongs to another tenant, or differs in the fields looked up.",
            )
        keys = (
            tuple(getattr(entity, name) for name in self.shape.key_names),
            tuple(complete.get(name) for name in self.shape.key_names),
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
        rows = insert_rows(self.shape, self.scope, items, user_id)
        if not rows:
            return []
        self._forbid_several_tables("upsert")
        given = [tuple(row) for row in rows]  # before defaults are filled in: they are for new rows
        target = _conflicts.conflict_target(self.shape, match, set(given[0]).intersection(*given[1:]))
        yield from self._flush_pending()
        rows = _copy.with_client_defaults(self.shape, rows, self._context())
        identities = [self._match_values(target, row) for row in rows]
        self._forbid_repeats(identities)
        # In the order of their keys: two batches that overlap then wait for each other instead of deadlocking.
        order = sorted(range(len(rows)), key=lambda index: str(identities[index]))
        found: dict[Any, M] = {}
        by_names = sorted(
            (((given[i], tuple(rows[i])), i) for i in order), key=lambda item: item[0]
        )  # keeps that order
        for (changing, names), group in groupby(by_names, key=lambda item: item[0]):
            part = [rows[index] for _, index in group]
            yield from self._upsert_part(part, names, set(changing), target, update, found)
        if len(rows) == len(found) == 1:
            return list(found.values())  # also where the database spells the match otherwise: case, padding
        missing = [identity for identity in identities if hashable(identity) not in found]
        if missing:
            raise DuplicateEntityError(
                self.shape.name,
                None,
                hint=f"{len(missing)} of {len(rows)} rows meet one that is deleted or belongs to another tenant.",
            )
        return [found[hashable(identity)] for identity in identities]

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
            found[hashable(identity)] = entity

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
        key = set(self.shape.identity_names)
        kept = key | set(target.fields) | {"created_by", "tenant_id"}
        changed = [
            name for name in (update if update is not None else names) if name in given and name not in kept
        ]
        extra: dict[str, Any] = {}
        for name, attribute in self.shape.columns.items():
            onupdate = attribute.property.columns[0].onupdate
            if onupdate is None or name in changed:
                continue
            if name not in names and _conflicts.default_is_update(attribute.property.columns[0]):
                changed.append(name)
            elif onupdate.is_clause_element:
                extra[name] = onupdate.arg
            elif name in names:
                changed.append(name)  # its value came with the client's defaults
        return changed, extra

    def _match_values(self, target: _conflicts.ConflictTarget, row: Mapping[str, Any]) -> tuple[Any, ...]:
        values = tuple(coerce(self.shape, name, row.get(name)) for name in target.fields)
        if None in values:
            raise ValidationError(
                f"{self.shape.name}: an upsert needs a value for each of ({', '.join(target.fields)}).",
                model=self.shape.name,
            )
        return values
