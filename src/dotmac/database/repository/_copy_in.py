"""PostgreSQL's COPY on the connection of a session, inside its transaction, for each driver."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Table
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from dotmac.database.query import Copy

# Begins the transaction where the driver has not yet, and asks whether COPY is allowed: the server refuses it on a
# table whose row-level security applies to this role.
_ALLOWED = text("SELECT NOT row_security_active(CAST(:name AS text))")


def copy_rows(session: Session, step: Copy) -> bool:
    """Send the rows; False, with nothing sent, where row-level security forbids it."""
    connection = session.connection()
    table, columns = _quoted(connection.dialect.identifier_preparer, step)
    if not connection.execute(_ALLOWED, {"name": table}).scalar_one():
        return False
    driver: Any = connection.connection.driver_connection
    sql = f"COPY {table} ({columns}) FROM STDIN"
    with _as_sqlalchemy_errors(sql), driver.cursor() as cursor, cursor.copy(sql) as copy:
        for record in step.records:
            copy.write_row(record)
    return True


async def copy_rows_async(session: AsyncSession, step: Copy) -> bool:
    """Same as `copy_rows`, awaiting."""
    connection = await session.connection()
    table, columns = _quoted(connection.dialect.identifier_preparer, step)
    if not (await connection.execute(_ALLOWED, {"name": table})).scalar_one():
        return False
    driver: Any = (await connection.get_raw_connection()).driver_connection
    sql = f"COPY {table} ({columns}) FROM STDIN"
    with _as_sqlalchemy_errors(sql):
        if connection.dialect.driver == "asyncpg":
            await driver.copy_records_to_table(
                step.table.name, schema_name=step.table.schema, columns=step.columns, records=step.records
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
        if state is None:
            raise
        kind = IntegrityError if str(state).startswith("23") else DBAPIError
        raise kind(sql, None, error, hide_parameters=True) from error


def _quoted(preparer: Any, step: Copy) -> tuple[str, str]:
    table: Table = step.table
    return preparer.format_table(table), ", ".join(preparer.quote(name) for name in step.columns)
