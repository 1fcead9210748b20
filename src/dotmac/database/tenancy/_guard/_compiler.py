"""The guard where SQL is made: no statement of a guarded session is rendered without its tenants.

It is a mixin of the dialect's own compiler, so it sees what SQLAlchemy finally renders: after correlation, after the ORM's
joins, subqueries and eager loads. ``_compose_select_body`` is not a published method (the same in SQLAlchemy 2.0.40 to
2.1); were it not called, `Notes` would be missing and the statement would be refused at execution.
"""

from __future__ import annotations

import re
from copy import copy
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, Table, case, literal
from sqlalchemy.sql import coercions
from sqlalchemy.sql.elements import BindParameter, ColumnClause, Grouping, Label, Null, TypeCoerce
from sqlalchemy.sql.functions import Function
from sqlalchemy.sql.selectable import ScalarSelect, Select, TableClause, TextualSelect

from dotmac.database.errors import UnprovableStatementError
from dotmac.database.tenancy._guard import _predicates
from dotmac.database.tenancy._guard._notes import Notes
from dotmac.database.tenancy._guard._work import in_statement
from dotmac.database.tenancy._tables import references_of, tenancy_of

if TYPE_CHECKING:
    from dotmac.database.tenancy._tables import TableTenancy

    class _SQLCompiler:
        """What the mixin is mixed into: the compiler of a dialect, whose methods have no types."""

        def __getattr__(self, name: str) -> Any: ...

else:
    _SQLCompiler = object


_PLAIN_NAME = re.compile(r"[^\W\d][\w$]*|__\[SCHEMA_\w*\]")  # the latter is a place for schema_translate_map


class GuardedCompiler(_SQLCompiler):
    """Adds the bound tenant to everything it renders."""

    @property
    def notes(self) -> Notes:
        """What this statement's compilation found out."""
        notes: Notes | None = self.__dict__.get("dotmac_notes")
        if notes is None:
            notes = self.__dict__["dotmac_notes"] = Notes()
        return notes

    @property
    def preparer(self) -> Any:
        """What writes names; one that is not to be quoted has to be a plain name."""
        return self.__dict__["preparer"]

    @preparer.setter
    def preparer(self, preparer: Any) -> None:
        mine = copy(preparer)
        quote = mine.quote

        def quote_plain(ident: str, *args: Any, **kw: Any) -> Any:
            if getattr(ident, "quote", None) is False and _PLAIN_NAME.fullmatch(ident) is None:
                raise UnprovableStatementError("a name that is not to be quoted holds more than a name")
            return quote(ident, *args, **kw)

        mine.quote = quote_plain
        self.__dict__["preparer"] = mine

    # SELECT

    def _compose_select_body(
        self,
        text: str,
        select: Any,
        compile_state: Any,
        inner_columns: Any,
        froms: Any,
        byfrom: Any,
        toplevel: Any,
        kwargs: Any,
    ) -> Any:
        kept: list[Any] = []
        wanted: list[Any] = []
        for item in froms:
            with_tenant, predicates = _predicates.keep_from(item, self.notes)
            kept.append(with_tenant)
            wanted.extend(predicates)
        if wanted:
            select = _narrowed(select, wanted)
        return super()._compose_select_body(  # type: ignore[misc]
            text, select, compile_state, inner_columns, kept, byfrom, toplevel, kwargs
        )

    # UPDATE, DELETE

    def visit_update(self, update_stmt: Any, visiting_cte: Any = None, **kw: Any) -> Any:
        """UPDATE, of rows of the bound tenant, which stay its rows."""
        if not isinstance(_written(update_stmt), TableClause):
            raise in_statement(UnprovableStatementError("it writes to a join"))
        narrowed = self._narrowed_dml(update_stmt, kw)
        facts, known = _predicates.facts_of(_written(update_stmt))
        if facts.is_divided:
            self._note_replace(update_stmt, known)
        self._note_written(update_stmt, facts, known, visiting_cte)
        self._note_others(update_stmt)
        return super().visit_update(narrowed, visiting_cte=visiting_cte, **kw)  # type: ignore[misc]

    def visit_delete(self, delete_stmt: Any, visiting_cte: Any = None, **kw: Any) -> Any:
        """DELETE, of rows of the bound tenant."""
        return super().visit_delete(  # type: ignore[misc]
            self._narrowed_dml(delete_stmt, kw), visiting_cte=visiting_cte, **kw
        )

    def _narrowed_dml(self, statement: Any, kw: dict[str, Any]) -> Any:
        wanted = []
        target = _written(statement)
        found = _predicates.predicate(statement.table, target, self.notes)
        if found is not None:
            wanted.append(found)
        state = statement._compile_state_factory(statement, self, **kw)  # noqa: SLF001 - as visit_update does
        for item in state._extra_froms:  # noqa: SLF001
            if item is statement.table:
                continue
            kept, predicates = _predicates.keep_from(item, self.notes)
            if kept is not item:
                self.notes.unproved(_predicates.tables_in(item), "it writes by an outer join")
            wanted.extend(predicates)
        return _narrowed(statement, wanted) if wanted else statement

    # INSERT

    def visit_insert(
        self, insert_stmt: Any, visited_bindparam: Any = None, visiting_cte: Any = None, **kw: Any
    ) -> Any:
        """INSERT, of rows of the bound tenant; on a conflict only its own row is touched."""
        table = _written(insert_stmt)
        facts, known = _predicates.facts_of(table)
        if facts.is_divided:
            if visiting_cte is not None:
                self.notes.unproved([known], "it inserts inside a CTE")
            self._note_replace(insert_stmt, known)
            insert_stmt = self._of_tenant(insert_stmt, facts, known, kw)
            self._note_written(insert_stmt, facts, known, visiting_cte)
            insert_stmt = self._keep_conflict(insert_stmt, facts, known)
        return super().visit_insert(  # type: ignore[misc]
            insert_stmt, visited_bindparam=visited_bindparam, visiting_cte=visiting_cte, **kw
        )

    def _of_tenant(self, statement: Any, facts: TableTenancy, known: Table, kw: dict[str, Any]) -> Any:
        """The statement, with the tenant in it."""
        if statement._select_names:  # noqa: SLF001 - the columns of INSERT … SELECT have no public name
            return self._of_tenant_from_select(statement, facts, known)
        if facts.column is None:
            return statement
        column = statement.table.c.get(facts.column.key, facts.column)
        if statement._multi_values:  # noqa: SLF001
            rows = statement._compile_state_factory(statement, self, **kw)._multi_parameters  # noqa: SLF001
            for position, row in enumerate(rows):
                given = _named(row, facts.column)
                if given is None:
                    row[column] = self.notes.tenant(known, facts.column.type)
                elif coercions._is_literal(given):  # noqa: SLF001 - what SQLAlchemy would make a parameter of
                    self.notes.given.append((f"{column.key}_m{position}", known, facts.column.type))
                elif isinstance(given, BindParameter):
                    self.notes.given.append((given, known, facts.column.type))
                else:
                    self.notes.unproved([known], "an expression computes whose row it is")
            changed = statement._clone()  # noqa: SLF001
            changed._multi_values = (rows,)  # noqa: SLF001
            return changed
        named = _named(statement._values or {}, facts.column)  # noqa: SLF001
        if named is None and not {facts.column.key, facts.column.name}.intersection(self.column_keys or ()):
            tenant = self.notes.tenant(known, facts.column.type)
            changed = statement._clone()  # noqa: SLF001
            values = dict(statement._values or {})  # noqa: SLF001
            values[column] = tenant
            changed._values = type(statement._values)(values) if statement._values else values  # noqa: SLF001
            return changed
        return statement

    def _of_tenant_from_select(self, statement: Any, facts: TableTenancy, known: Table) -> Any:
        source, names = statement.select, list(statement._select_names)  # noqa: SLF001
        while hasattr(source, "element"):
            source = source.element
        if facts.column is None or not isinstance(source, Select) or source is not statement.select:
            self.notes.unproved([known], "it inserts what a query finds, whose rows these are is not plain")
            return statement
        position = next(
            (at for at, name in enumerate(names) if name in {facts.column.key, facts.column.name}), None
        )
        if position is None:
            changed = statement._clone()  # noqa: SLF001
            tenant = self.notes.tenant(known, facts.column.type)
            changed.select = source.add_columns(tenant)
            changed._select_names = [*names, facts.column.key]  # noqa: SLF001
            return changed
        chosen = _bare(list(source.selected_columns)[position])
        base: Any = getattr(chosen, "table", None)
        while hasattr(base, "element"):
            base = base.element
        if isinstance(chosen, BindParameter):
            self.notes.given.append((chosen, known, facts.column.type))
        elif not (isinstance(base, TableClause) and _is_tenant_column(chosen, base)):
            self.notes.unproved([known], "an expression computes whose row it is")
        return statement

    def _note_written(self, statement: Any, facts: TableTenancy, known: Table, visiting_cte: Any) -> None:
        """Note which parameters say whose row it is, or on what it hangs; refuse what is no parameter."""
        values = dict(getattr(statement, "_values", None) or {})
        values.update(dict(getattr(statement, "_ordered_values", None) or ()))
        if facts.column is not None:
            self._note_tenant(values, facts.column, known, is_insert=statement.is_insert)
        if isinstance(known, Table):
            for target, pairs in references_of(known):
                self._note_reference(statement, values, known, target, pairs, visiting_cte)

    def _note_others(self, statement: Any) -> None:
        """Of the further tables that MySQL's UPDATE writes to, leave alone whose rows these are and what they refer to."""
        target = _written(statement)
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
                self.notes.unproved(
                    [known], "it writes whose row it is, or what it refers to, in a further table"
                )

    def _note_replace(self, statement: Any, known: Table) -> None:
        if any("replace" in getattr(prefix, "text", "").lower() for prefix, _ in statement._prefixes):  # noqa: SLF001
            self.notes.unproved([known], "OR REPLACE deletes whatever row is in the way")

    def _note_reference(
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
            if _named(values, mine) is not None or {mine.key, mine.name}.intersection(self.column_keys or ())
        ]
        names = list(getattr(statement, "_select_names", None) or ())
        multi = getattr(statement, "_multi_values", None)
        if visiting_cte is not None and written:
            self.notes.unproved([known], "what its rows refer to is not plain")
            return
        if multi:
            self._note_references_of_rows(multi, known, target, pairs)
            return
        binds = []
        for mine, theirs in pairs:
            given: Any = _named(values, mine)
            if names and given is None:
                given = _selected(statement, names, mine)
            if isinstance(given, BindParameter):
                binds.append(given)
            elif given is None and mine in written:
                binds.append(mine.key)
            elif given is not None and not _refers_alike(given, mine, theirs):
                self.notes.unproved([known], "an expression computes what its rows refer to")
                return
        if len(binds) == len(pairs):
            self.notes.references.append((known, target, [theirs for _, theirs in pairs], binds))
        elif binds:
            self.notes.unproved([known], "what its rows refer to is only partly said")

    def _note_references_of_rows(self, multi: Any, known: Table, target: Table, pairs: Any) -> None:
        """Likewise of INSERT … VALUES (…), (…), whose parameters are numbered by row."""
        rows = [row for part in multi for row in part]
        for position, row in enumerate(rows):
            if not isinstance(row, dict):
                self.notes.unproved([known], "what its rows refer to is not plain")
                return
            given = [_named(row, mine) for mine, _ in pairs]
            if any(value is None for value in given):
                continue
            binds = [
                f"{mine.key}_m{position}" if coercions._is_literal(value) else value  # noqa: SLF001
                for (mine, _), value in zip(pairs, given, strict=True)
            ]
            if not all(isinstance(bind, str | BindParameter) for bind in binds):
                self.notes.unproved([known], "an expression computes what its rows refer to")
                return
            self.notes.references.append((known, target, [theirs for _, theirs in pairs], binds))

    def _note_tenant(self, values: dict[Any, Any], column: Any, known: Table, *, is_insert: bool) -> None:
        given = _named(values, column)
        if given is None:
            if {column.key, column.name}.intersection(self.column_keys or ()):
                self.notes.given.append((column.key, known, column.type))
            return
        if isinstance(given, BindParameter):
            if not self.notes.is_own(given):
                self.notes.given.append((given, known, column.type))
        elif not (
            not is_insert and isinstance(given, ColumnClause) and _is_tenant_column(given, given.table)
        ):
            self.notes.unproved([known], "an expression computes whose row it is")

    def _keep_conflict(self, statement: Any, facts: TableTenancy, known: Table) -> Any:
        clause = getattr(statement, "_post_values_clause", None)
        kind = getattr(clause, "__visit_name__", "")
        if clause is None or kind == "on_conflict_do_nothing":
            return statement
        if facts.column is None or kind not in {"on_conflict_do_update", "on_duplicate_key_update"}:
            self.notes.unproved([known], "a conflict may be with another tenant's row")
            return statement
        column = statement.table.c.get(facts.column.key, facts.column)
        tenant = self.notes.tenant(known, facts.column.type)
        kept = clause._clone()  # noqa: SLF001
        if kind == "on_conflict_do_update":
            where = kept.update_whereclause
            own = column == tenant
            kept.update_whereclause = own if where is None else _predicates.closed(where) & own
            assignments = dict(kept.update_values_to_set)
        else:
            assignments = dict(kept.update)
            # The new row is the tenant's own; a parameter here is more than PyMySQL takes for many rows.
            own = column == clause.inserted_alias.c[column.key]
            kept.update = {
                name: case(
                    (own, _as_sql(value, statement.table, name)),
                    else_=statement.table.c[_key(name)],
                )
                for name, value in assignments.items()
            }
        for target, pairs in references_of(known) if isinstance(known, Table) else ():
            changes = [_named(assignments, mine) for mine, _ in pairs]
            if any(
                change is not None and not (isinstance(change, ColumnClause) and change.name == mine.name)
                for change, (mine, _) in zip(changes, pairs, strict=True)
            ):
                self.notes.unproved(
                    [known], f"on a conflict it would change what its row refers to in {target.name}"
                )
        moved = _named(assignments, facts.column)
        if moved is not None and not (isinstance(moved, ColumnClause) and moved.name == facts.column.name):
            self.notes.unproved([known], "on a conflict it would change whose row it is")
        changed = statement._clone()  # noqa: SLF001
        changed._post_values_clause = kept  # noqa: SLF001
        return changed

    # Raw SQL

    def visit_textclause(self, textclause: Any, add_to_result_map: Any = None, **kw: Any) -> Any:
        """Raw SQL: read, word by word."""
        whole = (
            not self.stack or kw.get("asfrom") or isinstance(self.stack[-1].get("selectable"), TextualSelect)
        )
        (self.notes.statement if whole else self.notes.fragment)(textclause.text)
        return super().visit_textclause(textclause, add_to_result_map=add_to_result_map, **kw)  # type: ignore[misc]

    def visit_tstring(self, tstring: Any, add_to_result_map: Any = None, **kw: Any) -> Any:
        """Raw SQL of a template string: its fixed parts together."""
        fixed = " ".join(part.text for part in tstring.parts if hasattr(part, "text"))
        whole = (
            not self.stack or kw.get("asfrom") or isinstance(self.stack[-1].get("selectable"), TextualSelect)
        )
        (self.notes.statement if whole else self.notes.fragment)(fixed)
        return super().visit_tstring(tstring, add_to_result_map=add_to_result_map, **kw)  # type: ignore[misc]

    def visit_column(self, column: Any, *args: Any, **kw: Any) -> Any:
        """A column; ``literal_column`` is raw SQL."""
        if column.is_literal:
            self.notes.fragment(column.name)
        return super().visit_column(column, *args, **kw)  # type: ignore[misc]

    def visit_function(self, func: Any, *args: Any, **kw: Any) -> Any:
        """A call; some functions run SQL they are given, or change the context."""
        self.notes.fragment(".".join((*func.packagenames, func.name)))
        return super().visit_function(func, *args, **kw)  # type: ignore[misc]

    def visit_extract(self, extract: Any, **kw: Any) -> Any:
        """``EXTRACT``, whose field is raw SQL."""
        self.notes.fragment(str(extract.field))
        return super().visit_extract(extract, **kw)  # type: ignore[misc]

    def visit_custom_op_binary(self, element: Any, operator: Any, **kw: Any) -> Any:
        """An operator of the caller's own words."""
        self.notes.fragment(operator.opstring)
        return super().visit_custom_op_binary(element, operator, **kw)  # type: ignore[misc]

    def visit_custom_op_unary_operator(self, element: Any, operator: Any, **kw: Any) -> Any:
        """Likewise, in front of its operand."""
        self.notes.fragment(operator.opstring)
        return super().visit_custom_op_unary_operator(element, operator, **kw)  # type: ignore[misc]

    def visit_custom_op_unary_modifier(self, element: Any, operator: Any, **kw: Any) -> Any:
        """Likewise, behind its operand."""
        self.notes.fragment(operator.opstring)
        return super().visit_custom_op_unary_modifier(element, operator, **kw)  # type: ignore[misc]

    def get_select_hint_text(self, byfroms: Any) -> Any:
        """Hints are raw SQL."""
        for hint in byfroms.values():
            self.notes.fragment(str(hint))
        return super().get_select_hint_text(byfroms)  # type: ignore[misc]

    def format_from_hint_text(self, sqltext: Any, table: Any, hint: Any, iscrud: Any) -> Any:
        """Likewise."""
        self.notes.fragment(str(hint))
        return super().format_from_hint_text(sqltext, table, hint, iscrud)  # type: ignore[misc]

    def get_statement_hint_text(self, hint_texts: Any) -> Any:
        """Likewise."""
        for hint in hint_texts:
            self.notes.fragment(str(hint))
        return super().get_statement_hint_text(hint_texts)  # type: ignore[misc]


def _written(statement: Any) -> Any:
    """The table that a statement writes to."""
    table = statement.table
    while hasattr(table, "element"):
        table = table.element
    return table


def _narrowed(statement: Any, wanted: list[Any]) -> Any:
    clone = statement._clone()  # noqa: SLF001 - as generative methods do; where() would want the ORM's plugin
    others = _predicates.without_repeated(statement._where_criteria, wanted)  # noqa: SLF001
    clone._where_criteria = (*map(_predicates.closed, others), *wanted)  # noqa: SLF001
    return clone


def _named(values: Any, column: Any) -> Any:
    """What ``values`` hold for ``column``, under whatever they call it; None for nothing."""
    for name, value in values.items():
        if name in (column.key, column.name) if isinstance(name, str) else _key(name) == column.key:
            return value
    return None


def _bare(element: Any) -> Any:
    """``element`` without its label, or the type it is taken for."""
    while isinstance(element, Label | TypeCoerce | Grouping):
        element = element.element if not isinstance(element, TypeCoerce) else element.clause
    return element


def _selected(statement: Any, names: list[Any], column: Any) -> Any:
    """What INSERT … SELECT finds for ``column``; None for nothing."""
    position = next((at for at, name in enumerate(names) if name in {column.key, column.name}), None)
    if position is None:
        return None
    if not isinstance(statement.select, Select):
        return statement.select  # refers to nothing that is known
    return _bare(list(statement.select.selected_columns)[position])


def _refers_alike(given: Any, mine: Any, theirs: Any) -> bool:
    """True if what ``given`` finds is a row of this tenant's: a key of ``theirs``, or what refers to it by a proven column."""
    given = _bare(given)
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
        for base in (_bare(base) for base in given.base_columns)
    )


def _key(name: Any) -> str:
    return name if isinstance(name, str) else str(getattr(name, "key", name))


def _is_tenant_column(column: Any, table: Any) -> bool:
    if not isinstance(table, TableClause):
        return False
    facts, _ = _predicates.facts_of(table)
    return facts.column is not None and column.name == facts.column.name


def _as_sql(value: Any, table: Any, name: Any) -> Any:
    if coercions._is_literal(value):  # noqa: SLF001 - what SQLAlchemy would make a parameter of
        return literal(value, table.c[_key(name)].type)
    return value
