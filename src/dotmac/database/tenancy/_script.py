"""Many statements in one message: what a driver needs for it, and what PostgreSQL's errors say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.util import await_only

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection


def send_script(connection: Connection, statements: Iterable[str]) -> None:
    """Run ``statements`` on PostgreSQL as one message, in the connection's transaction. They take no parameters.

    Raises:
        Exception: What the driver raises; `sqlstate_of` reads it.
    """
    script = ";\n".join(statements)
    if connection.dialect.driver != "asyncpg":
        connection.exec_driver_sql(script, execution_options={"no_parameters": True})
        return
    # SQLAlchemy's asyncpg prepares every statement, and only one can be prepared at a time. It begins the transaction
    # with the first one.
    connection.exec_driver_sql("SELECT 1")
    driver: Any = connection.connection.driver_connection
    await_only(driver.execute(script))


def sqlstate_of(error: BaseException | None) -> str | None:
    """The SQLSTATE of a driver's error, or of the one that SQLAlchemy wraps."""
    while error is not None:
        for name in ("sqlstate", "pgcode"):
            state = getattr(error, name, None)
            if isinstance(state, str):
                return state
        error = getattr(error, "orig", None)
    return None


def message_of(error: BaseException) -> str:
    """The first line of what the server said: those after it may quote rows."""
    orig = getattr(error, "orig", None) or error
    # SQLAlchemy's asyncpg puts the class in front.
    return str(orig).strip().partition("\n")[0].rpartition("'>: ")[2]
