"""Work across tenants adds no tenant to its statements. It only makes sure that nobody else does, in silence.

Row-level security would answer a role that it binds with no rows at all, and a report would say that there are none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import text as sql_text
from sqlalchemy.sql.selectable import TableClause
from sqlalchemy.sql.visitors import iterate

from dotmac.database.errors import TenantError
from dotmac.database.models._audit import CONTEXT_OPTION
from dotmac.database.tenancy._guard._execution import unguarded
from dotmac.database.tenancy._guard._predicates import facts_of
from dotmac.database.tenancy._guard._raw import read_statement
from dotmac.database.tenancy._guard._work import in_statement
from dotmac.database.tenancy._tables import divided_by_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection, Table

    from dotmac.database.tenancy._guard._work import Work

    class _ExecutionContext:
        """What the mixin is mixed into."""

        @classmethod
        def _init_compiled(cls, *_arguments: Any, **_keywords: Any) -> Any: ...
        @classmethod
        def _init_statement(cls, *_arguments: Any, **_keywords: Any) -> Any: ...

else:
    _ExecutionContext = object

# Names are looked up as the statement's will be; a table that is not there is the statement's own error.
_BOUND = sql_text(
    "SELECT name FROM unnest(CAST(:names AS text[])) AS name "
    "WHERE to_regclass(name) IS NOT NULL AND row_security_active(to_regclass(name)::oid)"
)


class WatchedExecution(_ExecutionContext):
    """An execution context of work across tenants."""

    @classmethod
    def _init_compiled(
        cls, dialect: Any, connection: Any, dbapi: Any, options: Any, compiled: Any, *args: Any, **kw: Any
    ) -> Any:
        work: Work = options[CONTEXT_OPTION]
        work.tell_if_changed(connection, dbapi)
        tables = compiled.__dict__.get("dotmac_tables")
        if tables is None:
            tables = compiled.__dict__["dotmac_tables"] = frozenset(_tables_of(compiled))
        if not tables <= work.verified:
            _refuse_silence(connection, work, tables - work.verified)
        return super()._init_compiled(dialect, connection, dbapi, options, compiled, *args, **kw)

    @classmethod
    def _init_statement(
        cls, dialect: Any, connection: Any, dbapi: Any, options: Any, statement: str, *args: Any, **kw: Any
    ) -> Any:
        work: Work = options[CONTEXT_OPTION]
        work.tell_if_changed(connection, dbapi)
        tables = {table for name in read_statement(statement).names for table in divided_by_name(name)}
        _refuse_silence(connection, work, tables - work.verified)
        return super()._init_statement(dialect, connection, dbapi, options, statement, *args, **kw)


def _tables_of(compiled: Any) -> Iterable[Table]:
    for element in iterate(compiled.statement):
        if isinstance(element, TableClause):
            facts, known = facts_of(element)
            if facts.is_divided:
                yield known
        elif element.__visit_name__ == "textclause":
            for name in read_statement(element.text).names:  # type: ignore[attr-defined] # a TextClause
                yield from divided_by_name(name)


def _refuse_silence(connection: Connection, work: Work, tables: set[Table] | frozenset[Table]) -> None:
    if not tables:
        return
    quoted = connection.dialect.identifier_preparer.format_table
    with unguarded(connection):
        bound = (
            connection.execute(_BOUND, {"names": sorted(quoted(table) for table in tables)}).scalars().all()
        )
    if bound:
        raise in_statement(
            TenantError(
                f"Row-level security keeps this connection's role from the rows of all tenants in {', '.join(bound)}: work "
                f"across tenants would see none of them. Connect as a role with BYPASSRLS for it (`dotmac-db roles "
                f"bootstrap` makes one)."
            )
        )
    work.verified |= tables
