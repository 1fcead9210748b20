"""The guard where statements are executed: every one of a guarded session goes through here, whatever made it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, tuple_
from sqlalchemy import text as sql_text

from dotmac.database.errors import MissingTenantError, TenantMismatchError, UnprovableStatementError
from dotmac.database.models._audit import CONTEXT_OPTION
from dotmac.database.tenancy._guard._compiler import GuardedCompiler
from dotmac.database.tenancy._guard._raw import read_statement
from dotmac.database.tenancy._guard._work import WORK_ATTRIBUTE, Work, in_statement, name_of
from dotmac.database.tenancy._placement import IsolationMode
from dotmac.database.tenancy._tables import divided_by_name
from dotmac.database.tenancy._verified import OTHERS_SQL, VERIFY_SQL, verified, verify_parameters

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection, Table

    from dotmac.database.tenancy._guard._notes import Notes
    from dotmac.database.tenancy._guard._raw import RawSql

    class _ExecutionContext:
        """What the mixin is mixed into."""

        @classmethod
        def _init_compiled(cls, *_arguments: Any, **_keywords: Any) -> Any: ...
        @classmethod
        def _init_statement(cls, *_arguments: Any, **_keywords: Any) -> Any: ...
        @classmethod
        def _init_ddl(cls, *_arguments: Any, **_keywords: Any) -> Any: ...
        @classmethod
        def _init_default(cls, *_arguments: Any, **_keywords: Any) -> Any: ...

else:
    _ExecutionContext = object

_KEYS_PER_QUESTION = 500
_PLAIN_DDL = frozenset(
    {"create_table", "drop_table", "create_index", "drop_index", "create_sequence", "drop_sequence", "create_schema",
     "drop_schema", "add_constraint", "drop_constraint", "create_enum_type", "drop_enum_type", "set_table_comment",
     "set_column_comment", "create_domain_type", "drop_domain_type", "set_constraint_comment", "drop_constraint_comment"}
)  # fmt: skip


class GuardedExecution(_ExecutionContext):
    """An execution context whose statement has been judged."""

    @classmethod
    def _init_compiled(
        cls,
        dialect: Any,
        connection: Any,
        dbapi: Any,
        options: Any,
        compiled: Any,
        parameters: Any,
        *args: Any,
        **kw: Any,
    ) -> Any:
        work = _work_of(connection, options)
        work.tell_if_changed(connection, dbapi)
        if not isinstance(compiled, GuardedCompiler):
            raise in_statement(UnprovableStatementError("it was compiled beforehand, without a tenant"))
        notes = compiled.notes
        if not notes.asks_nothing:
            translates = bool(options.get("schema_translate_map"))
            _judge(connection, work, notes.raw, notes, translates=translates)
        rows = notes.supplied(work, parameters, compiled.bind_names)
        execution = super()._init_compiled(dialect, connection, dbapi, options, compiled, rows, *args, **kw)
        if notes.given:
            completed = notes.completed(work, rows, execution.compiled_parameters)
            if completed is not rows:
                execution.cursor.close()
                execution = super()._init_compiled(
                    dialect, connection, dbapi, options, compiled, completed, *args, **kw
                )
            notes.settle(work, execution.compiled_parameters)
        if notes.references:
            _judge_references(connection, notes, compiled, execution.compiled_parameters)
        return execution

    @classmethod
    def _init_statement(
        cls, dialect: Any, connection: Any, dbapi: Any, options: Any, statement: str, *args: Any, **kw: Any
    ) -> Any:
        work = _work_of(connection, options)
        work.tell_if_changed(connection, dbapi)
        _judge(connection, work, [read_statement(statement)], None)
        return super()._init_statement(dialect, connection, dbapi, options, statement, *args, **kw)

    @classmethod
    def _init_ddl(
        cls, dialect: Any, connection: Any, dbapi: Any, options: Any, compiled_ddl: Any, *args: Any, **kw: Any
    ) -> Any:
        work = _work_of(connection, options)
        element = compiled_ddl.statement
        if work.context.tenant_id is not None or element.__visit_name__ not in _PLAIN_DDL | {"ddl"}:
            raise in_statement(
                UnprovableStatementError("changing the schema is nobody's work but the owner's")
            )
        if element.__visit_name__ == "ddl":
            _judge(connection, work, [read_statement(str(compiled_ddl))], None)
        return super()._init_ddl(dialect, connection, dbapi, options, compiled_ddl, *args, **kw)

    @classmethod
    def _init_default(cls, dialect: Any, connection: Any, dbapi: Any, options: Any) -> Any:
        work = _work_of(connection, options)
        work.tell_if_changed(connection, dbapi)
        return super()._init_default(dialect, connection, dbapi, options)


def _work_of(connection: Connection, options: Any) -> Work:
    """The work that a session gave its connection; an option of the caller's own does not pass for it."""
    work: Work = connection.__dict__[WORK_ATTRIBUTE]
    given: Work | None = options.get(CONTEXT_OPTION)
    if given is not work:
        raise in_statement(UnprovableStatementError(f"its option {CONTEXT_OPTION} is not the session's own"))
    return work


def _judge(
    connection: Connection,
    work: Work,
    raw: Iterable[RawSql],
    notes: Notes | None,
    *,
    translates: bool = False,
) -> None:
    """Let a statement pass that is safe, or that the server keeps within the tenant.

    Args:
        connection: What it is sent on.
        work: Whom it is for.
        raw: Its raw pieces.
        notes: What its compilation found out; None for one that is raw as a whole.
        translates: Its tables are in other schemas than their models say.

    Raises:
        UnprovableStatementError: It is neither.
        MissingTenantError: It names tenants' tables, and no tenant is bound.
    """
    doubtful: set[Table] = set(notes.doubtful) if notes is not None else set()
    reason = notes.doubts[0] if notes is not None and notes.doubts else "it is raw SQL on tenants' tables"
    raw = list(raw)
    beside = set().union(notes.loose_names if notes is not None else (), *(seen.names for seen in raw))
    if connection.dialect.name == "sqlite":
        beside.update(notes.loose_strings if notes is not None else (), *(seen.strings for seen in raw))
    for seen in raw:
        doubtful |= _doubtful_in(seen, beside, work)
    if not doubtful:
        return
    if work.context.tenant_id is None:
        raise in_statement(MissingTenantError(name_of(min(doubtful, key=lambda table: table.name))))
    unverified = doubtful - work.verified
    if unverified and connection.dialect.name == "postgresql":
        work.verified |= _ask_server(connection, unverified)
        unverified -= work.verified
    if unverified:
        raise _refusal(reason, unverified)
    if notes is not None and notes.doubtful and (notes.is_elsewhere or translates):
        raise _refusal(f"{reason}, in another schema", doubtful)
    if any("" in pair for seen in raw for pair in seen.qualified):
        raise _refusal("it writes a name in two pieces", doubtful)
    if raw and (mentioned := _elsewhere(raw, notes.loose_names if notes is not None else ())):
        _refuse_others(connection, mentioned, doubtful, work)


def _doubtful_in(seen: RawSql, beside: set[str], work: Work) -> set[Table]:
    """The tables that raw SQL names, by itself or with the pieces ``beside`` it, and that nothing keeps to the tenant."""
    named: set[Table] = set()
    if seen.introduces:
        named = {table for name in seen.names | beside for table in divided_by_name(name)}
    if seen.opaque is not None:
        raise _refusal(f"it holds {seen.opaque}, which cannot be seen through", named)
    if seen.meddles is not None and (work.context.tenant_id is not None or named):
        raise _refusal(f"{seen.meddles} is not one tenant's business", named)
    placement = work.placement
    if placement is None or placement.mode is IsolationMode.SHARED:
        others = {
            schema for schema in seen.schemas if schema.startswith("tenant_") and not divided_by_name(schema)
        }
        if named and others:
            raise _refusal(f"it names the schema {min(others)!r}", named)
        return named
    own = {placement.schema, placement.shared_schema}
    foreign = {name for name in seen.schemas if name not in own and _may_be_schema(name)}
    if foreign:
        raise _refusal(f"it names the schema {min(foreign)!r}", named)
    return set()  # what is not named by its schema is found in the tenant's own


def _elsewhere(raw: Iterable[RawSql], loose: Iterable[str]) -> set[tuple[str | None, str]]:
    """Names of tenants' tables, each with the schema in front of it, that may lead to others than models have."""
    pairs: set[tuple[str | None, str]] = {(None, name) for name in loose}
    for seen in raw:
        pairs |= seen.qualified
        pairs |= {(None, name) for name in seen.bare}
    return {pair for pair in pairs if (homes := _homes(pair[1])) and homes != {pair[0]}}


def _homes(name: str) -> set[str | None]:
    return {table.schema and table.schema.lower() for table in divided_by_name(name)}


def _refuse_others(
    connection: Connection, mentioned: set[tuple[str | None, str]], tables: set[Table], work: Work
) -> None:
    """Refuse SQL that leads to another table by the name of one that the server was asked about.

    Raises:
        UnprovableStatementError: There is another table.
    """
    new = mentioned - work.found
    if not new:
        return
    wanted = sorted(new, key=str)
    homes = [table for name in {name for _, name in new} for table in divided_by_name(name)]
    with unguarded(connection):
        others = connection.execute(
            sql_text(OTHERS_SQL),
            {
                "schemas": [schema for schema, _ in wanted],
                "names": [name for _, name in wanted],
                "home_schemas": [table.schema for table in homes],
                "home_names": [table.name for table in homes],
            },
        ).all()
    if others:
        raise _refusal(f"it names the schema {others[0][0]!r}", tables)
    work.found |= new


def _may_be_schema(name: str) -> bool:
    return name.startswith(("tenant_", "pg_toast", "pg_temp")) or name in {"public", "admin"}


def _refusal(reason: str, tables: set[Table]) -> Exception:
    found = frozenset(table.name for table in tables)
    about = f" (tables of tenants: {', '.join(sorted(found))})" if found else ""
    return in_statement(UnprovableStatementError(reason + about, tables=found))


def _ask_server(connection: Connection, tables: set[Table]) -> frozenset[Table]:
    """Those of ``tables`` whose row-level security binds this connection's user, in this transaction."""
    wanted = sorted(tables, key=lambda table: table.fullname)
    with unguarded(connection):
        rows = connection.execute(sql_text(VERIFY_SQL), verify_parameters(wanted)).all()
    # An unnamed schema was looked up along search_path, as the statement will be.
    return verified(wanted, rows)


def _judge_references(
    connection: Connection, notes: Notes, compiled: Any, rows: list[dict[str, Any]]
) -> None:
    """Are the rows that written ones refer to the tenant's own? One SELECT for each reference, itself guarded."""
    wanted: dict[Any, tuple[Table, set[Any]]] = {}
    for table, target, columns, binds in notes.references:
        names = [notes.name_of(bind, compiled.bind_names) for bind in binds]
        if any(name not in row for row in rows for name in names):
            raise _refusal("what its rows refer to is not plain", {table})
        found = (tuple(row[name] for name in names) for row in rows)
        keys = {key for key in found if None not in key}
        if target is table:  # rows of one statement may refer to each other
            own = [column.key for column in columns]
            keys -= {tuple(row[name] for name in own) for row in rows if all(name in row for name in own)}
        wanted.setdefault((target, tuple(columns)), (table, set()))[1].update(keys)
    for (target, columns), (table, keys) in wanted.items():
        for part in _batched(sorted(keys, key=repr), _KEYS_PER_QUESTION):
            chosen = (
                columns[0].in_([key[0] for key in part]) if len(columns) == 1 else tuple_(*columns).in_(part)
            )
            question = select(func.count()).select_from(target).where(chosen)
            if connection.execute(question).scalar_one() != len(part):
                raise in_statement(TenantMismatchError(name_of(table)))


def _batched(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


class unguarded:  # noqa: N801 - reads as the block it is
    """``with unguarded(connection):`` statements of our own, which judge and do not read rows."""

    __slots__ = ("_connection", "_dialect")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._dialect = connection.dialect

    def __enter__(self) -> None:
        self._connection.dialect = self._connection.engine.dialect

    def __exit__(self, *_error: object) -> None:
        self._connection.dialect = self._dialect
