"""A new tenant's tables as one script: rendered once from the models, sent once for each tenant.

The tables' names carry no schema; ``search_path`` is pinned, for the transaction, to the tenant's schema and the shared
one. So the script is the same for every tenant but for a few lines around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, Enum, create_mock_engine
from sqlalchemy.dialects.postgresql import DOMAIN
from sqlalchemy.schema import CreateIndex
from sqlalchemy.types import TypeDecorator

from dotmac.database.errors import SchemaError
from dotmac.database.tenancy._session_context import quoted_identifier, quoted_literal
from dotmac.database.tenancy._tables import divided_tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from os import PathLike

    from sqlalchemy import MetaData, Table
    from sqlalchemy.types import TypeEngine

_VERSION_TABLE = "alembic_version"


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use a tenant's tables; reading and writing rows only, never the tables themselves.

    Attributes:
        application_role: The role the application connects as.
        role: The tenant's own role, which then alone has the rights, and which the application role may switch to.
        shared_role: What the tenant's own role is a member of, for its rights on shared tables.
        has_set_option: True from PostgreSQL 16 on, where membership need not inherit.
    """

    application_role: str | None = None
    role: str | None = None
    shared_role: str | None = None
    has_set_option: bool = True


def tenant_tables(metadata: MetaData, chosen: Iterable[Table] | None = None) -> list[Table]:
    """The tables each tenant gets for itself, owners first: the ``chosen`` ones, else those whose rows belong to tenants.

    Raises:
        SchemaError: One of them names a schema, or has a type that would be one type per schema.
    """
    wanted = set(divided_tables(metadata) if chosen is None else chosen)
    tables = [table for table in metadata.sorted_tables if table in wanted]
    if missing := sorted(table.fullname for table in wanted.difference(tables)):
        raise SchemaError(f"These tables belong to other metadata: {', '.join(missing)}.")
    for table in tables:
        if table.schema is not None:
            raise SchemaError(
                f"The table {table.fullname} names a schema and so cannot be one per tenant. Leave schema= out of it, or, "
                f'if all tenants share it, say info={{"tenant_scoped": False}}.',
                schema=table.schema,
            )
        for column in table.columns:
            _refuse_own_type(table, column.name, column.type)
    return tables


def _refuse_own_type(table: Table, column: str, column_type: TypeEngine[Any]) -> None:
    if isinstance(column_type, TypeDecorator):
        _refuse_own_type(table, column, column_type.impl_instance)
    elif isinstance(column_type, ARRAY):
        _refuse_own_type(table, column, column_type.item_type)
    elif isinstance(column_type, DOMAIN) or (isinstance(column_type, Enum) and column_type.native_enum):
        if getattr(column_type, "schema", None) is not None or getattr(column_type, "name", None) is None:
            return
        raise SchemaError(
            f"{table.name}.{column} has a type of the database ({column_type.name}), which would be another type in every "
            f"tenant's schema: statements cached for one tenant would fail for the next. Store it as text, with "
            f"Enum(…, native_enum=False), or keep the type in the shared schema, with schema='…'."
        )


def render_tables(metadata: MetaData, tables: Sequence[Table]) -> list[str]:
    """The statements that make ``tables``, as ``metadata.create_all`` does, for PostgreSQL."""
    statements: list[str] = []

    def keep(element: Any, *_arguments: Any, **_options: Any) -> None:
        sql = str(element.compile(dialect=engine.dialect)).strip()
        if isinstance(element, CreateIndex):
            # Cannot run in a transaction, and nobody waits for an empty table.
            sql = sql.replace("INDEX CONCURRENTLY", "INDEX", 1)
        statements.append(sql)

    # This driver's notation has no doubled percent signs.
    engine = create_mock_engine("postgresql+asyncpg://", keep)
    metadata.create_all(engine, tables=tables, checkfirst=False)
    return statements


def render_version(migrations: str | PathLike[str]) -> list[str]:
    """Alembic's own table, at the head of ``migrations``, a directory that holds ``env.py``."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - an extra, and slow

    heads = ScriptDirectory(str(migrations)).get_heads()
    table = f"CREATE TABLE {_VERSION_TABLE} (version_num VARCHAR(32) NOT NULL, CONSTRAINT {_VERSION_TABLE}_pkc PRIMARY KEY (version_num))"
    marks = [f"INSERT INTO {_VERSION_TABLE} VALUES ({quoted_literal(head)})" for head in heads]  # noqa: S608 - quoted
    return [table, *marks]


def schema_script(
    schema: str,
    tenant_id: str,
    shared_schema: str | None,
    body: Sequence[str],
    version: Sequence[str],
    access: Access,
) -> list[str]:
    """Everything a tenant in a schema of its own needs; fails, as a whole, if the schema or role exists."""
    name = quoted_identifier(schema)
    return [
        f"CREATE SCHEMA {name}",
        f"COMMENT ON SCHEMA {name} IS {quoted_literal(ownership_mark(tenant_id))}",
        f"SET LOCAL search_path = {', '.join(map(quoted_identifier, search_path(schema, shared_schema)))}",
        *body,
        *_role_sql(access),
        *_grants(schema, access),
        *version,
        *_version_grants(schema, version, access),
    ]


def search_path(schema: str, shared_schema: str | None) -> list[str]:
    """Where names are looked up while the tables are made; temporary tables last, so that none shadows one of ours."""
    return [schema, *([] if shared_schema is None else [shared_schema]), "pg_temp"]


def ownership_mark(tenant_id: str) -> str:
    """The comment on a schema or database that the directory made; without it, it is never dropped."""
    return f"dotmac tenant {tenant_id}"


def _role_sql(access: Access) -> list[str]:
    if access.role is None:
        return []
    role = quoted_identifier(access.role)
    statements = [f"CREATE ROLE {role} NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS"]
    if access.shared_role is not None:
        statements.append(f"GRANT {quoted_identifier(access.shared_role)} TO {role}")
    if access.application_role is not None:
        option = " WITH INHERIT FALSE, SET TRUE" if access.has_set_option else ""
        statements.append(f"GRANT {role} TO {quoted_identifier(access.application_role)}{option}")
    return statements


def _grants(schema: str, access: Access) -> list[str]:
    grantee = access.role or access.application_role
    if grantee is None:
        return []
    name, role = quoted_identifier(schema), quoted_identifier(grantee)
    rows = "SELECT, INSERT, UPDATE, DELETE"  # no TRUNCATE: it knows no row-level security
    return [
        f"GRANT USAGE ON SCHEMA {name} TO {role}",
        f"GRANT {rows} ON ALL TABLES IN SCHEMA {name} TO {role}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {name} TO {role}",
        # For what later migrations, run by this same role, add.
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {name} GRANT {rows} ON TABLES TO {role}",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {name} GRANT USAGE ON SEQUENCES TO {role}",
    ]


def _version_grants(schema: str, version: Sequence[str], access: Access) -> list[str]:
    grantee = access.role or access.application_role
    if grantee is None or not version:
        return []
    table = f"{quoted_identifier(schema)}.{_VERSION_TABLE}"
    return [f"REVOKE INSERT, UPDATE, DELETE ON {table} FROM {quoted_identifier(grantee)}"]
