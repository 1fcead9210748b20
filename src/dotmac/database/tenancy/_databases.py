"""A database for one tenant: made and dropped on the directory's own server, through its administrator."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from dotmac.database.errors import ConfigurationError, SchemaError
from dotmac.database.tenancy._names import check_schema_name
from dotmac.database.tenancy._policies import row_level_security_sql
from dotmac.database.tenancy._provisioning import ownership_mark, render_tables
from dotmac.database.tenancy._script import message_of, send_script, sqlstate_of
from dotmac.database.tenancy._session_context import quoted_identifier, quoted_literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection, Engine

    from dotmac.database.tenancy._directory_core import NewTenant
    from dotmac.database.tenancy._directory_options import DirectoryOptions
    from dotmac.database.tenancy._tenant import Tenant

_DUPLICATE_DATABASE = "42P04"
_MARK_SQL = text(
    "SELECT shobj_description(oid, 'pg_database') AS mark FROM pg_database WHERE datname = :name"
)


def database_script(engine: Engine, options: DirectoryOptions, version: Sequence[str]) -> list[str]:
    """What makes the tables of a tenant's database: all the application's, for there are no others there.

    Raises:
        ConfigurationError: The server is no PostgreSQL.
    """
    if engine.dialect.name != "postgresql":
        raise ConfigurationError(
            "Databases are only made on PostgreSQL. Make this one yourself and `register` the tenant with its connection."
        )
    statements = ["SET LOCAL search_path = public, pg_temp", "REVOKE CREATE ON SCHEMA public FROM PUBLIC"]
    if options.metadata is not None:
        schemas = sorted({table.schema for table in options.metadata.tables.values() if table.schema})
        statements += [f"CREATE SCHEMA IF NOT EXISTS {quoted_identifier(schema)}" for schema in schemas]
        statements += render_tables(options.metadata, options.metadata.sorted_tables)
        if options.row_level_security:
            statements += row_level_security_sql(options.metadata)
    if options.application_role is not None:
        role = quoted_identifier(options.application_role)
        statements += [
            f"GRANT USAGE ON SCHEMA public TO {role}",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
            f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}",
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role}",
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO {role}",
        ]
    return [*statements, *version]


@contextmanager
def new_database(
    engine: Engine, new: NewTenant, script: Sequence[str], application_role: str | None
) -> Iterator[None]:
    """A database called as the tenant's connection, with its tables; dropped again if the block fails.

    Raises:
        SchemaError: It exists, or cannot be made.
    """
    name = check_schema_name(new.connection or "")
    made = False
    try:
        with _outside_transactions(engine) as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {quoted_identifier(name)}")
            made = True
            mark = quoted_literal(ownership_mark(new.id))
            connection.exec_driver_sql(f"COMMENT ON DATABASE {quoted_identifier(name)} IS {mark}")
            if application_role is not None:
                _reserve(connection, name, application_role)
        inside = create_engine(engine.url.set(database=name), poolclass=NullPool)
        with inside.begin() as connection:
            send_script(connection, script)
        yield
    except BaseException as error:
        if made:
            with _outside_transactions(engine) as connection:
                connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {quoted_identifier(name)} WITH (FORCE)")
        state = sqlstate_of(error)
        if state is None or not isinstance(error, Exception):
            raise
        raise SchemaError(
            f"The database {name} exists already and the directory did not make it; it is never taken over. Choose another "
            f"with connection=, or `register` the tenant."
            if state == _DUPLICATE_DATABASE
            else f"The database {name} could not be made ({state}: {message_of(error)}). Nothing is left of it.",
            schema=name,
        ) from error


def drop_database(engine: Engine, tenant: Tenant) -> None:
    """Drop the database of ``tenant``, ending its connections; nothing happens when there is none.

    Raises:
        SchemaError: It does not carry the tenant's mark.
    """
    name = check_schema_name(tenant.connection or "")
    with _outside_transactions(engine) as connection:
        found = connection.execute(_MARK_SQL, {"name": name}).one_or_none()
        if found is None:
            return
        if found.mark != ownership_mark(tenant.id):
            raise SchemaError(
                f"The database {name} does not carry the mark of this tenant (its comment). It is not dropped. Remove the "
                f"tenant alone with keep_data=True.",
                schema=name,
            )
        connection.exec_driver_sql(f"DROP DATABASE {quoted_identifier(name)} WITH (FORCE)")


def _reserve(connection: Connection, name: str, application_role: str) -> None:
    """Others cannot even connect; as PostgreSQL makes it, everybody can."""
    database = quoted_identifier(name)
    connection.exec_driver_sql(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
    connection.exec_driver_sql(
        f"GRANT CONNECT ON DATABASE {database} TO {quoted_identifier(application_role)}"
    )


@contextmanager
def _outside_transactions(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        yield connection.execution_options(isolation_level="AUTOCOMMIT")
