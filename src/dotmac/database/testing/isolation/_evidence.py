"""What an administrator sees before and after an attack, and whether what the attack got to see is another tenant's."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, Row, RowMapping, Table, and_, delete, insert, select, update
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import InstanceState

from dotmac.database.tenancy import tenancy_of
from dotmac.database.testing.isolation._attack import Leak
from dotmac.database.testing.isolation._values import MARK_CHARS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import Connection

    from dotmac.database.testing.isolation._subject import Subject

_LEAST_NUMBER = 10**6  # smaller integers may be the same by chance

Values = dict[str, Any]
Rows = dict[tuple[Any, ...], Values]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All rows of the tables under attack, by place, table and key.

    Attributes:
        rows: By place (one where the tenants share their tables, else one for each tenant) and table.
    """

    rows: dict[tuple[str, Table], Rows] = field(repr=False)


def places(connections: Mapping[str, Connection]) -> dict[str, Connection]:
    """The connections that lead to different tables, each under the first tenant that has it."""
    found: dict[str, Connection] = {}
    for tenant, connection in connections.items():
        if all(connection is not known for known in found.values()):
            found[tenant] = connection
    return found


def photograph(connections: Mapping[str, Connection], tables: Sequence[Table]) -> Snapshot:
    """What is in ``tables`` now."""
    rows: dict[tuple[str, Table], Rows] = {}
    for place, connection in places(connections).items():
        for table in tables:
            keys = [column.key for column in _key(table)]
            found: Rows = {}
            for row in connection.execute(select(table)).mappings():
                values = {column.key: row[column] for column in table.columns}
                found[tuple(values[key] for key in keys)] = values
            rows[place, table] = found
    return Snapshot(rows)


def fingerprint(connections: Mapping[str, Connection], tables: Sequence[Table]) -> list[Any]:
    """What tells cheaply that nothing has changed since; as the driver gives it, without SQLAlchemy's share."""
    found: list[Any] = []
    for connection in places(connections).values():
        named = connection.dialect.identifier_preparer.format_table
        cursor: Any = connection.connection.cursor()
        for table in tables:
            cursor.execute(f"SELECT * FROM {named(table)}")  # noqa: S608 - quoted
            found.append(sorted(map(repr, cursor.fetchall())))
        cursor.close()
    return found


def restore(connections: Mapping[str, Connection], before: Snapshot, after: Snapshot) -> None:
    """Undo what an attack has done to the tables."""
    work = list(before.rows)
    at = places(connections)
    for place, table in work:
        old, new = before.rows[place, table], after.rows[place, table]
        for key, values in old.items():
            if key not in new:
                at[place].execute(insert(table).values(values))
    for place, table in work:
        old, new = before.rows[place, table], after.rows[place, table]
        for key, values in old.items():
            if key in new and new[key] != values:
                at[place].execute(update(table).where(_where(table, key)).values(values))
    for place, table in reversed(work):
        for key in after.rows[place, table].keys() - before.rows[place, table].keys():
            at[place].execute(delete(table).where(_where(table, key)))


def written(subject: Subject, before: Snapshot, after: Snapshot) -> Iterator[str]:
    """What an attack wrote that it must not: foreign rows changed, gone, new, or copied into own ones."""
    if after is before:
        return
    secrets = {mark for mark in marks(subject, before) if isinstance(mark, str)}
    for place, table in before.rows:
        old, new = before.rows[place, table], after.rows[place, table]
        for key in old.keys() | new.keys():
            if old.get(key) == new.get(key):
                continue
            was = _tenant_of(table, old.get(key), before, place)
            now = _tenant_of(table, new.get(key), after, place)
            if subject.other in (was, now):
                verb = "removed" if key not in new else "added" if key not in old else "changed"
                yield f"{verb} a row of {table.name} that is another tenant's"
            elif any(_holds(value, secrets) for value in new.get(key, {}).values()):
                yield f"copied another tenant's text into an own row of {table.name}"


def marks(subject: Subject, before: Snapshot) -> frozenset[Any]:
    """Values by which foreign rows are known: their texts, and the keys of the model's own."""
    found: set[Any] = {subject.other}
    for (place, table), rows in before.rows.items():
        for values in rows.values():
            if _tenant_of(table, values, before, place) == subject.other:
                found.update(value for value in values.values() if _is_text_mark(value))
    keys = {value for row in subject.foreign_rows for value in subject.key_of(row)}
    found.update(
        value
        for value in keys
        if isinstance(value, uuid.UUID) or (isinstance(value, int) and value > _LEAST_NUMBER)
    )
    return frozenset(found)


def seen(loot: object, foreign: frozenset[Any]) -> Iterator[str]:
    """What in ``loot`` is another tenant's, described without its value."""
    yield from _seen(loot, foreign, set())


def _seen(value: object, foreign: frozenset[Any], visited: set[int]) -> Iterator[str]:  # noqa: C901 - one branch for each kind of value
    if isinstance(value, Leak):
        yield str(value)
    elif isinstance(value, str | bytes | int | uuid.UUID):
        if _holds(value, foreign):
            yield f"saw another tenant's {type(value).__name__}"
    elif isinstance(value, Row | list | tuple | set | frozenset):
        for item in value:
            yield from _seen(item, foreign, visited)
    elif isinstance(value, dict | RowMapping):
        for item in value.values():
            yield from _seen(item, foreign, visited)
    elif (state := _state_of(value)) is not None and id(value) not in visited:
        visited.add(id(value))
        for name, item in list(state.dict.items()):
            if name != "_sa_instance_state":
                yield from (f"{what} in a {type(value).__name__}" for what in _seen(item, foreign, visited))


def _state_of(value: object) -> InstanceState[Any] | None:
    try:
        state = sa_inspect(value)
    except NoInspectionAvailable:
        return None
    return state if isinstance(state, InstanceState) else None


def _holds(value: object, foreign: frozenset[Any] | set[Any]) -> bool:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return any(
            mark in value or mark.replace("-", "") in value
            for mark in (str(one) for one in foreign)
            if len(mark) >= MARK_CHARS or mark == value
        )
    try:
        return value in foreign
    except TypeError:  # unhashable
        return False


def _is_text_mark(value: object) -> bool:
    return isinstance(value, str) and value.startswith("secret-")


def _tenant_of(table: Table, values: Values | None, snapshot: Snapshot, place: str) -> str | None:
    """Whose a row is: by its tenant column, or by the row it hangs on."""
    if values is None:
        return None
    if any(other != place for other, _ in snapshot.rows):  # the tenants' tables are apart
        return place
    divided = tenancy_of(table)
    if divided.column is not None:
        return str(values[divided.column.key])
    if divided.owner is None:
        return None
    for candidate in snapshot.rows.get((place, divided.owner.table), {}).values():
        if all(values[ours.key] == candidate[theirs.key] for ours, theirs in divided.owner.pairs):
            return _tenant_of(divided.owner.table, candidate, snapshot, place)
    return None


def _key(table: Table) -> list[Column[Any]]:
    return list(table.primary_key.columns) or list(table.columns)


def _where(table: Table, key: tuple[Any, ...]) -> Any:
    return and_(*(column == value for column, value in zip(_key(table), key, strict=True)))
