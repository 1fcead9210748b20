"""From facts to findings, worst first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from dotmac.database.errors import ConfigurationError
from dotmac.database.tenancy.doctor import _access, _constraints, _row_security, _schemas
from dotmac.database.tenancy.doctor._facts import TENANT_SCHEMAS, DatabaseFacts, read_facts
from dotmac.database.tenancy.doctor._finding import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, MetaData

_MYSQL = frozenset({"mysql", "mariadb"})
_MYSQL_COLUMNS = """
SELECT TABLE_NAME, COLUMN_NAME, COLUMN_TYPE, COLLATION_NAME, IS_NULLABLE FROM information_schema.COLUMNS
WHERE TABLE_SCHEMA = DATABASE() AND COLUMN_NAME = :column AND COLLATION_NAME NOT LIKE '%\\_bin' ORDER BY TABLE_NAME"""


def examine(
    connection: Connection,
    metadata: MetaData | None = None,
    *,
    roles: Sequence[str] = (),
    tenant_column: str = "tenant_id",
    tenant_schemas: str = TENANT_SCHEMAS,
) -> list[Finding]:
    """What is wrong with the database that ``connection`` is to, worst first; changes nothing.

    Args:
        connection: PostgreSQL 15 or newer, best as an administrator; or MySQL, where only collations are looked at.
        metadata: The models: tells tables that are shared though they have the column, and those that hang on others.
        roles: What the application logs in as; default: the current user.
        tenant_column: Name of the tenant column.
        tenant_schemas: Pattern of the names of schemas that belong to one tenant each.

    Raises:
        ConfigurationError: Neither PostgreSQL nor MySQL, or a role does not exist.
    """
    dialect = connection.dialect.name
    if dialect in _MYSQL:
        return _examine_mysql(connection, tenant_column)
    if dialect != "postgresql":
        raise ConfigurationError(f"The doctor examines PostgreSQL and MySQL, and this is {dialect}.")
    facts = read_facts(connection, roles=roles, tenant_column=tenant_column, tenant_schemas=tenant_schemas)
    missing = sorted(set(roles) - {role["name"] for role in facts.roles})
    if missing:
        raise ConfigurationError(f"There is no role {', '.join(missing)} on this server.")
    return judge(facts, metadata)


def judge(facts: DatabaseFacts, metadata: MetaData | None = None) -> list[Finding]:
    """The findings that follow from ``facts``, worst first; no I/O."""
    found = [
        *_access.check_server(facts),
        *_access.check_roles(facts),
        *_row_security.check_tables(facts, metadata),
        *_access.check_views(facts),
        *_access.check_functions(facts),
        *_constraints.check_foreign_keys(facts),
        *_constraints.check_uniques(facts),
        *_access.check_sequences(facts),
        *_schemas.check_schemas(facts, metadata),
    ]
    return sorted(found, key=lambda finding: -finding.severity)


def _examine_mysql(connection: Connection, column: str) -> list[Finding]:
    found = []
    for table, name, column_type, collation, nullable in connection.execute(
        text(_MYSQL_COLUMNS), {"column": column}
    ):
        null = "NULL" if nullable == "YES" else "NOT NULL"
        cure = f"ALTER TABLE `{table}` MODIFY `{name}` {column_type} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin {null}"
        why = f"The collation {collation} takes acme and Acme for the same tenant."
        found.append(Finding("tenant-collation", Severity.ERROR, f"{table}.{name}", why, (cure,)))
    return found
