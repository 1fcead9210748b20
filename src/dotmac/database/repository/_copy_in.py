"""PostgreSQL's COPY on the connection of a session, inside its transaction, for each driver."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from dotmac.database.query import tell_inserted
from dotmac.database.tenancy import quota_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from dotmac.database.query import Copy

# Begins the transaction where the driver has not yet, and asks whether COPY is allowed: the server refuses it on a
# table whose row-level security applies to this role.
_ALLOWED = text("SELECT NOT row_security_active(CAST(:name AS text))")


def copy_rows(session: Session, step: Copy) -> bool:
    """Send the rows; False, with nothing sent, where row-level security forbids it."""
    connection = session.connection(bind_arguments={"clause": step.table})
    _, table, columns = _names(connection, step)
    if connection.dialect.driver != "psycopg":
        return False
    if not connection.execute(_ALLOWED, {"name": table}).scalar_one():
        return False
    tell_inserted(connection, step.table.name)
    driver: Any = connection.connection.driver_connection
    sql = f"COPY {table} ({columns}) FROM STDIN"
    with _as_sqlalchemy_errors(sql), driver.cursor() as cursor, cursor.copy(sql) as copy:
        for record in step.records:
            copy.write_row(record)
    return True


async def copy_rows_async(session: AsyncSession, step: Copy) -> bool:
    """Same as `copy_rows`, awaiting."""
    connection = await session.connection(bind_arguments={"clause": step.table})
    schema, table, columns = _names(connection.sync_connection, step)
    if not (await connection.execute(_ALLOWED, {"name": table})).scalar_one():
        return False
    tell_inserted(connection.sync_connection, step.table.name)  # type: ignore[arg-type] # it is connected
    driver: Any = (await connection.get_raw_connection()).driver_connection
    sql = f"COPY {table} ({columns}) FROM STDIN"
    with _as_sqlalchemy_errors(sql):
        if connection.dialect.driver == "asyncpg":
            await driver.copy_records_to_table(
                step.table.name, schema_name=schema, columns=step.columns, records=step.records
            )
            return True
        async with driver.cursor() as cursor, cursor.copy(sql) as copy:
            for record in step.records:
                await copy.write_row(record)
    return True


@contextmanager
def _as_sqlalchemy_errors(sql: str) -> Iterator[None]:
    """What SQLAlchemy does for the statements it sends itself."""
    try:
        yield
    except Exception as error:
        state = getattr(error, "sqlstate", None)
        if isinstance(error, TypeError | ValueError | ArithmeticError):
            raise StatementError(str(error), sql, None, error, hide_parameters=True) from error
        if state is None:
            raise
        if (exceeded := quota_error(error)) is not None:
            raise exceeded from error
        kind = IntegrityError if str(state).startswith("23") else DBAPIError
        raise kind(sql, None, error, hide_parameters=True) from error


def _names(connection: Any, step: Copy) -> tuple[str | None, str, str]:
    """The schema, where the connection's ``schema_translate_map`` leads; table and columns, quoted."""
    preparer: Any = connection.dialect.identifier_preparer
    table = step.table
    translated = connection.get_execution_options().get("schema_translate_map") or {}
    schema = translated.get(table.schema, table.schema)
    parts = [part for part in (schema, table.name) if part]
    columns = ", ".join(preparer.quote(name) for name in step.columns)
    return schema, ".".join(preparer.quote(part) for part in parts), columns
