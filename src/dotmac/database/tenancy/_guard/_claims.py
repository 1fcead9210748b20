"""What a statement that writes says of its rows: whose they are, and which rows they refer to.

What is said by parameters is noted, to be compared or asked about at execution; what is not so plain is doubted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, Table, UniqueConstraint
from sqlalchemy.sql import coercions
from sqlalchemy.sql.elements import BindParameter, ColumnClause, Grouping, Label, Null, TypeCoerce
from sqlalchemy.sql.functions import Function
from sqlalchemy.sql.selectable import ScalarSelect, Select, TableClause

from dotmac.database.tenancy._guard import _predicates
from dotmac.database.tenancy._tables import references_of, tenancy_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dotmac.database.tenancy._guard._notes import Notes
    from dotmac.database.tenancy._tables import TableTenancy


class Claims:
    """What the statements of one compilation claim of the rows they write.

    Args:
        notes: Where it is noted.
        column_keys: Columns that the rows given at execution have values for; None for none.
    """

    def __init__(self, notes: Notes, column_keys: Iterable[str] | None) -> None:
        self._notes = notes
        self._column_keys = frozenset(column_keys or ())

    def note(self, statement: Any, facts: TableTenancy, known: Table, visiting_cte: Any) -> None:
        """Note which parameters say whose row it is, or on what it hangs; refuse what is no parameter."""
        values = dict(getattr(statement, "_values", None) or {})
        values.update(dict(getattr(statement, "_ordered_values", None) or ()))
        if facts.column is not None:
            self._tenant(values, facts.column, known, is_insert=statement.is_insert)
        if isinstance(known, Table):
            for target, pairs in references_of(known):
                self._reference(statement, values, known, target, pairs, visiting_cte)

    def note_others(self, statement: Any) -> None:
        """Of the further tables that MySQL's UPDATE writes to, leave alone whose rows these are and what they refer to."""
        target = written_table(statement)
        ordered = dict(getattr(statement, "_ordered_values", None) or ())
        for name in (*(statement._values or ()), *ordered):  # noqa: SLF001
            table: Any = getattr(name, "table", None)
            while hasattr(table, "element"):
                table = table.element
            if not isinstance(table, TableClause) or table == target:
                continue
            facts, known = _predicates.facts_of(table)
            fixed = {facts.column.key} if facts.column is not None else set()
            if isinstance(known, Table):
                fixed |= {mine.key for _, pairs in references_of(known) for mine, _ in pairs}
            if name.key in fixed:
                self._notes.unproved(
                    [known], "it writes whose row it is, or what it refers to, in a further table"
                )

    def note_replace(self, statement: Any, known: Table) -> None:
        if any("replace" in getattr(prefix, "text", "").lower() for prefix, _ in statement._prefixes):  # noqa: SLF001
            self._notes.unproved([known], "OR REPLACE deletes whatever row is in the way")

    def _reference(
        self,
        statement: Any,
        values: dict[Any, Any],
        known: Table,
        target: Table,
        pairs: Any,
        visiting_cte: Any,
    ) -> None:
        """Note which parameters refer to another tenants' table: what they refer to has to be the tenant's own."""
        written = [
            mine
            for mine, _ in pairs
            if named(values, mine) is not None or {mine.key, mine.name}.intersection(self._column_keys)
        ]
        names = list(getattr(statement, "_select_names", None) or ())
        multi = getattr(statement, "_multi_values", None)
        if visiting_cte is not None and written:
            self._notes.unproved([known], "what its rows refer to is not plain")
            return
        if multi:
            self._references_of_rows(multi, known, target, pairs)
            return
        binds = []
        for mine, theirs in pairs:
            given: Any = named(values, mine)
            if names and given is None:
                given = _selected(statement, names, mine)
            if isinstance(given, BindParameter):
                binds.append(given)
            elif given is None and mine in written:
                binds.append(mine.key)
            elif given is not None and not _refers_alike(given, mine, theirs):
                self._notes.unproved([known], "an expression computes what its rows refer to")
                return
        if len(binds) == len(pairs):
            self._notes.references.append((known, target, [theirs for _, theirs in pairs], binds))
        elif binds:
            self._notes.unproved([known], "what its rows refer to is only partly said")

    def _references_of_rows(self, multi: Any, known: Table, target: Table, pairs: Any) -> None:
        """Likewise of INSERT … VALUES (…), (…), whose parameters are numbered by row."""
        rows = [row for part in multi for row in part]
        for position, row in enumerate(rows):
            if not isinstance(row, dict):
                self._notes.unproved([known], "what its rows refer to is not plain")
                return
            given = [named(row, mine) for mine, _ in pairs]
            if any(value is None for value in given):
                continue
            binds = [
                f"{mine.key}_m{position}" if coercions._is_literal(value) else value  # noqa: SLF001
                for (mine, _), value in zip(pairs, given, strict=True)
            ]
            if not all(isinstance(bind, str | BindParameter) for bind in binds):
                self._notes.unproved([known], "an expression computes what its rows refer to")
                return
            self._notes.references.append((known, target, [theirs for _, theirs in pairs], binds))

    def _tenant(self, values: dict[Any, Any], column: Any, known: Table, *, is_insert: bool) -> None:
        given = named(values, column)
        if given is None:
            if {column.key, column.name}.intersection(self._column_keys):
                self._notes.given.append((column.key, known, column.type))
            return
        if isinstance(given, BindParameter):
            if not self._notes.is_own(given):
                self._notes.given.append((given, known, column.type))
        elif not (not is_insert and isinstance(given, ColumnClause) and is_tenant_column(given, given.table)):
            self._notes.unproved([known], "an expression computes whose row it is")


def written_table(statement: Any) -> Any:
    """The table that a statement writes to."""
    table = statement.table
    while hasattr(table, "element"):
        table = table.element
    return table


def named(values: Any, column: Any) -> Any:
    """What ``values`` hold for ``column``, under whatever they call it; None for nothing."""
    return next((values[name] for name in names_of(values, column)), None)


def names_of(values: Any, column: Any) -> list[Any]:
    """Whatever ``values`` call ``column``."""
    return [
        name
        for name in values
        if (name in (column.key, column.name) if isinstance(name, str) else key_of(name) == column.key)
    ]


def carries_tenant(table: Any, column: Any) -> bool:
    """True if every key of ``table`` holds its tenant ``column``, so that only rows of one tenant conflict."""
    if not isinstance(table, Table):
        return False
    constraints = [found for found in table.constraints if isinstance(found, UniqueConstraint)]
    indexes = [found for found in table.indexes if found.unique]
    keys: list[Any] = [table.primary_key, *constraints, *indexes]
    return all(key.columns.contains_column(column) for key in keys if len(key.columns))


def bare(element: Any) -> Any:
    """``element`` without its label, or the type it is taken for."""
    while isinstance(element, Label | TypeCoerce | Grouping):
        element = element.element if not isinstance(element, TypeCoerce) else element.clause
    return element


def key_of(name: Any) -> str:
    return name if isinstance(name, str) else str(getattr(name, "key", name))


def is_tenant_column(column: Any, table: Any) -> bool:
    if not isinstance(table, TableClause):
        return False
    facts, _ = _predicates.facts_of(table)
    return facts.column is not None and column.name == facts.column.name


def _selected(statement: Any, names: list[Any], column: Any) -> Any:
    """What INSERT … SELECT finds for ``column``; None for nothing."""
    position = next((at for at, name in enumerate(names) if name in {column.key, column.name}), None)
    if position is None:
        return None
    if not isinstance(statement.select, Select):
        return statement.select  # refers to nothing that is known
    return bare(list(statement.select.selected_columns)[position])


def _refers_alike(given: Any, mine: Any, theirs: Any) -> bool:
    """True if what ``given`` finds is a row of this tenant's: a key of ``theirs``, or what refers to it by a proven column."""
    given = bare(given)
    if isinstance(given, Null):
        return True
    if isinstance(given, ScalarSelect):
        selected = getattr(given.element, "selected_columns", ())
        return len(selected) == 1 and _refers_alike(next(iter(selected)), mine, theirs)
    if isinstance(given, Function) and given.name in {"max", "min"} and len(given.clauses) == 1:
        return _refers_alike(next(iter(given.clauses)), mine, theirs)
    if not isinstance(given, ColumnClause):
        return False
    return all(
        base is mine
        or base is theirs
        or (isinstance(base, Column) and base.references(theirs) and tenancy_of(base.table).is_divided)
        for base in (bare(base) for base in given.base_columns)
    )
