"""Row-level security as statements: from tables to the policies that keep each tenant within its rows, and back.

Every statement may be run again: what is there already is replaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import MetaData, PrimaryKeyConstraint, Table, TextClause, UniqueConstraint, text

from dotmac.database.errors import ConfigurationError
from dotmac.database.tenancy._rules import PERMISSIVE_POLICY, RESTRICTIVE_POLICY, TenantRule, rule_of
from dotmac.database.tenancy._session_context import quoted_identifier, quoted_literal
from dotmac.database.tenancy._tables import divided_tables, tenancy_of
from dotmac.database.tenancy._verified import VERIFY_SQL, secured, verify_parameters

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Column, Connection

# Stand for a partition, with its schema and without, in statements that are run on each.
_TARGET: Final = "{target}"
_RELATION: Final = "{relation}"
_LONGEST_NAME: Final = 63

_POLICIES: Final = ((PERMISSIVE_POLICY, "PERMISSIVE"), (RESTRICTIVE_POLICY, "RESTRICTIVE"))


def row_level_security_sql(source: MetaData | Table | Iterable[Table]) -> list[str]:
    """Statements that turn row-level security on for every table of ``source`` whose rows belong to tenants.

    Each table, and every partition that it has when they are run, gets ENABLE and FORCE ROW LEVEL SECURITY, a permissive
    policy, a restrictive one, and an index that the tenant leads, where the table declares none.

    Raises:
        ConfigurationError: A tenant column's type cannot be compared with a tenant's id.
    """
    statements: list[str] = []
    for table in _divided(source):
        rule = rule_of(table)
        if rule is not None:
            statements += secure_sql(table.name, rule, schema=table.schema, partitions=_is_partitioned(table))
            statements += _index_sql(table)
    return statements


def drop_row_level_security_sql(source: MetaData | Table | Iterable[Table]) -> list[str]:
    """Statements that undo those of `row_level_security_sql`; indexes stay."""
    statements: list[str] = []
    for table in reversed(_divided(source)):
        statements += unsecure_sql(table.name, schema=table.schema, partitions=_is_partitioned(table))
    return statements


def enable_row_level_security(
    connection: Connection, source: MetaData | Table | Iterable[Table]
) -> list[str]:
    """Turn row-level security on for the tables of ``source`` that lack it or have it otherwise; returns what was run.

    Names without a schema are found by ``search_path``, as ``create_all`` does. From an async connection:
    ``await connection.run_sync(enable_row_level_security, Base.metadata)``. You commit.

    Raises:
        ConfigurationError: Not PostgreSQL, or a tenant column's type cannot be compared with a tenant's id.
    """
    _require_postgresql(connection)
    tables = _divided(source)
    rows = connection.execute(text(VERIFY_SQL), verify_parameters(tables)).all()
    done = secured(tables, rows)
    statements: list[str] = []
    for table in tables:
        rule = rule_of(table)
        if table not in done and rule is not None:
            statements += secure_sql(table.name, rule, schema=table.schema, partitions=True)
            statements += _index_sql(table)
    return run_statements(connection, statements)


def disable_row_level_security(
    connection: Connection, source: MetaData | Table | Iterable[Table]
) -> list[str]:
    """Undo `enable_row_level_security`, partitions included; returns what was run. You commit.

    Raises:
        ConfigurationError: Not PostgreSQL.
    """
    _require_postgresql(connection)
    statements: list[str] = []
    for table in reversed(_divided(source)):
        statements += unsecure_sql(table.name, schema=table.schema, partitions=True)
    return run_statements(connection, statements)


def secure_sql(
    name: str, rule: TenantRule, *, schema: str | None = None, partitions: bool = False
) -> list[str]:
    """Row-level security by ``rule`` on one table; with ``partitions``, on each of its partitions too."""
    target = table_target(name, schema)
    statements = _enabling(target, rule.predicate(quoted_identifier(name)))
    if partitions:
        statements.append(_on_partitions(target, _enabling(_TARGET, rule.predicate(_RELATION))))
    return statements


def unsecure_sql(name: str, *, schema: str | None = None, partitions: bool = False) -> list[str]:
    """No row-level security, and none of our policies, on one table; with ``partitions``, on its partitions neither."""
    target = table_target(name, schema)
    statements = _disabling(target)
    if partitions:
        statements.append(_on_partitions(target, _disabling(_TARGET)))
    return statements


def run_statements(connection: Connection, statements: Iterable[str]) -> list[str]:
    """Run ``statements`` as they are, whatever signs they hold; returns them."""
    done = list(statements)
    for statement in done:
        connection.execute(literal_sql(statement))
    return done


def literal_sql(statement: str) -> TextClause:
    """``statement`` for execution; a colon in it stands for itself."""
    return text(statement.replace(":", "\\:"))


def _enabling(target: str, predicate: str) -> list[str]:
    statements = []
    for policy, kind in _POLICIES:
        statements += [
            f"DROP POLICY IF EXISTS {policy} ON {target}",
            f"CREATE POLICY {policy} ON {target} AS {kind} FOR ALL TO PUBLIC USING ({predicate}) WITH CHECK ({predicate})",
        ]
    # Last: until then the table is as open as it was, and never closed to everybody.
    statements.append(f"ALTER TABLE {target} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    return statements


def _disabling(target: str) -> list[str]:
    return [
        *(f"DROP POLICY IF EXISTS {policy} ON {target}" for policy, _ in _POLICIES),
        f"ALTER TABLE {target} NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY",
    ]


def _on_partitions(target: str, templates: Iterable[str]) -> str:
    """One statement that runs each template on every partition there is when it is run; nothing where there is none."""
    body = "\n".join(
        f"    EXECUTE replace(replace({quoted_literal(template)}, '{_TARGET}', CAST(partition AS text)), "
        f"'{_RELATION}', quoted_name);"
        for template in templates
    )
    return f"""DO $dotmac$
DECLARE
  partition regclass;
  quoted_name text;
BEGIN
  FOR partition, quoted_name IN
    WITH RECURSIVE tree AS (
      SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = CAST({quoted_literal(target)} AS regclass)
      UNION
      SELECT i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.inhrelid)
    SELECT c.oid, quote_ident(c.relname)
    FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.inhrelid WHERE c.relkind IN ('r', 'p')
  LOOP
{body}
  END LOOP;
END $dotmac$"""  # noqa: S608 - quoted


def table_target(name: str, schema: str | None) -> str:
    """The quoted name of a table, with its schema where one is given."""
    quoted = quoted_identifier(name)
    return quoted if schema is None else f"{quoted_identifier(schema)}.{quoted}"


def _divided(source: MetaData | Table | Iterable[Table]) -> list[Table]:
    if isinstance(source, MetaData):
        return list(divided_tables(source))
    tables = [source] if isinstance(source, Table) else source
    return [table for table in tables if tenancy_of(table).is_divided]


def _is_partitioned(table: Table) -> bool:
    return bool(table.dialect_options["postgresql"].get("partition_by"))


def _index_sql(table: Table) -> list[str]:
    column = tenancy_of(table).column
    if column is None or leads_an_index(table, column):
        return []
    index = quoted_identifier(f"ix_{table.name}_{column.name}"[:_LONGEST_NAME])
    return [
        f"CREATE INDEX IF NOT EXISTS {index} ON {table_target(table.name, table.schema)} ({quoted_identifier(column.name)})"
    ]


def leads_an_index(table: Table, column: Column[Any]) -> bool:
    """True if some index, key or uniqueness that the table declares begins with ``column``."""
    keys = [
        list(constraint.columns)
        for constraint in table.constraints
        if isinstance(constraint, (PrimaryKeyConstraint, UniqueConstraint))
    ]
    keys += [
        list(index.expressions)  # type: ignore[arg-type] # columns and expressions
        for index in table.indexes
        if index.dialect_options["postgresql"].get("where") is None
    ]
    return any(key[:1] and key[0] is column for key in keys)


def _require_postgresql(connection: Connection) -> None:
    if connection.dialect.name != "postgresql":
        raise ConfigurationError(
            f"Row-level security exists on PostgreSQL only, and this is {connection.dialect.name}: here tenants are kept "
            f"apart by the guard on sessions alone."
        )
