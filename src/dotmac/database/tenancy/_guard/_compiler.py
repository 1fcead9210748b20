"""The guard where SQL is made: no statement of a guarded session is rendered without its tenants.

It is a mixin of the dialect's own compiler, so it sees what SQLAlchemy finally renders: after correlation, after the ORM's
joins, subqueries and eager loads. ``_compose_select_body`` is not a published method (the same in SQLAlchemy 2.0.40 to
2.1); were it not called, `Notes` would be missing and the statement would be refused at execution.
"""

from __future__ import annotations

import re
from copy import copy
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table, case, literal
from sqlalchemy.sql import coercions
from sqlalchemy.sql.elements import BindParameter, ColumnClause
from sqlalchemy.sql.selectable import Select, TableClause, TextualSelect

from dotmac.database.errors import UnprovableStatementError
from dotmac.database.tenancy._guard import _predicates
from dotmac.database.tenancy._guard._claims import (
    Claims,
    bare,
    carries_tenant,
    is_tenant_column,
    key_of,
    named,
    names_of,
    written_table,
)
from dotmac.database.tenancy._guard._notes import Notes
from dotmac.database.tenancy._guard._work import in_statement
from dotmac.database.tenancy._tables import references_of

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
    def _claims(self) -> Claims:
        return Claims(self.notes, self.column_keys)

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

    def visit_table(self, table: Any, *args: Any, **kw: Any) -> Any:
        """A table; one told by the name of another, in another schema, is not the one whose policies the server knows."""
        facts, known = _predicates.facts_of(table)
        if facts.is_divided and getattr(table, "schema", None) != known.schema:
            self.notes.is_elsewhere = True
        return super().visit_table(table, *args, **kw)  # type: ignore[misc]

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
        if not isinstance(written_table(update_stmt), TableClause):
            raise in_statement(UnprovableStatementError("it writes to a join"))
        narrowed = self._narrowed_dml(update_stmt, kw)
        facts, known = _predicates.facts_of(written_table(update_stmt))
        if facts.is_divided:
            self._claims.note_replace(update_stmt, known)
        self._claims.note(update_stmt, facts, known, visiting_cte)
        self._claims.note_others(update_stmt)
        return super().visit_update(narrowed, visiting_cte=visiting_cte, **kw)  # type: ignore[misc]

    def visit_delete(self, delete_stmt: Any, visiting_cte: Any = None, **kw: Any) -> Any:
        """DELETE, of rows of the bound tenant."""
        return super().visit_delete(  # type: ignore[misc]
            self._narrowed_dml(delete_stmt, kw), visiting_cte=visiting_cte, **kw
        )

    def _narrowed_dml(self, statement: Any, kw: dict[str, Any]) -> Any:
        wanted = []
        target = written_table(statement)
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
        table = written_table(insert_stmt)
        facts, known = _predicates.facts_of(table)
        if facts.is_divided:
            if visiting_cte is not None:
                self.notes.unproved([known], "it inserts inside a CTE")
            self._claims.note_replace(insert_stmt, known)
            insert_stmt = self._of_tenant(insert_stmt, facts, known, kw)
            self._claims.note(insert_stmt, facts, known, visiting_cte)
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
            found = statement._compile_state_factory(statement, self, **kw)._multi_parameters  # noqa: SLF001
            rows = [dict(row) for row in found]  # the statement's own may be compiled again
            for position, row in enumerate(rows):
                given = named(row, facts.column)
                if given is None:
                    for name in names_of(row, facts.column):
                        del row[name]
                    row[column] = self.notes.tenant(known, facts.column.type, in_values=True)
                elif coercions._is_literal(given):  # noqa: SLF001 - what SQLAlchemy would make a parameter of
                    self.notes.given.append((f"{column.key}_m{position}", known, facts.column.type))
                elif isinstance(given, BindParameter):
                    self.notes.given.append((given, known, facts.column.type))
                else:
                    self.notes.unproved([known], "an expression computes whose row it is")
            changed = statement._clone()  # noqa: SLF001
            changed._multi_values = (rows,)  # noqa: SLF001
            return changed
        given = named(statement._values or {}, facts.column)  # noqa: SLF001
        if given is None and not {facts.column.key, facts.column.name}.intersection(self.column_keys or ()):
            tenant = self.notes.tenant(known, facts.column.type, in_values=True)
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
        chosen = bare(list(source.selected_columns)[position])
        base: Any = getattr(chosen, "table", None)
        while hasattr(base, "element"):
            base = base.element
        if isinstance(chosen, BindParameter):
            self.notes.given.append((chosen, known, facts.column.type))
        elif not (isinstance(base, TableClause) and is_tenant_column(chosen, base)):
            self.notes.unproved([known], "an expression computes whose row it is")
        return statement

    def _keep_conflict(self, statement: Any, facts: TableTenancy, known: Table) -> Any:
        clause = getattr(statement, "_post_values_clause", None)
        kind = getattr(clause, "__visit_name__", "")
        if clause is None or kind == "on_conflict_do_nothing":
            return statement
        if facts.column is None or kind not in {"on_conflict_do_update", "on_duplicate_key_update"}:
            self.notes.unproved([known], "a conflict may be with another tenant's row")
            return statement
        column = statement.table.c.get(facts.column.key, facts.column)
        returns = kind == "on_duplicate_key_update" and statement._returning  # noqa: SLF001
        if returns and not carries_tenant(known, facts.column):
            self.notes.unproved([known], "after a conflict it would return another tenant's row")
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
                    else_=statement.table.c[key_of(name)],
                )
                for name, value in assignments.items()
            }
        for target, pairs in references_of(known) if isinstance(known, Table) else ():
            changes = [named(assignments, mine) for mine, _ in pairs]
            if any(
                change is not None and not (isinstance(change, ColumnClause) and change.name == mine.name)
                for change, (mine, _) in zip(changes, pairs, strict=True)
            ):
                self.notes.unproved(
                    [known], f"on a conflict it would change what its row refers to in {target.name}"
                )
        moved = named(assignments, facts.column)
        if moved is not None and not (isinstance(moved, ColumnClause) and moved.name == facts.column.name):
            self.notes.unproved([known], "on a conflict it would change whose row it is")
        changed = statement._clone()  # noqa: SLF001
        changed._post_values_clause = kept  # noqa: SLF001
        return changed

    # Raw SQL

    def render_literal_bindparam(self, bindparam: Any, *args: Any, **kw: Any) -> Any:
        """A parameter's value as text; the tenant is not known yet."""
        if self.notes.is_own(bindparam):
            self.notes.refuse("the tenant as text in place of a parameter (literal_binds)")
            return "NULL"
        return super().render_literal_bindparam(bindparam, *args, **kw)  # type: ignore[misc]

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


def _narrowed(statement: Any, wanted: list[Any]) -> Any:
    clone = statement._clone()  # noqa: SLF001 - as generative methods do; where() would want the ORM's plugin
    others = _predicates.without_repeated(statement._where_criteria, wanted)  # noqa: SLF001
    clone._where_criteria = (*map(_predicates.closed, others), *wanted)  # noqa: SLF001
    return clone


def _as_sql(value: Any, table: Any, name: Any) -> Any:
    if coercions._is_literal(value):  # noqa: SLF001 - what SQLAlchemy would make a parameter of
        return literal(value, table.c[key_of(name)].type)
    return value
