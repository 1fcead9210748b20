"""Read-only at the server: not a promise of the caller but a transaction that refuses writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import event

from dotmac.database.engine._sqlite import READ_ONLY

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    AnyEngine = TypeVar("AnyEngine", Engine, AsyncEngine)


def read_only(engine: AnyEngine) -> AnyEngine:
    """The same engine and pool, every transaction of which is read-only at the server.

    PostgreSQL begins it with ``BEGIN READ ONLY`` (no extra round trip), MySQL with ``START TRANSACTION READ ONLY``,
    SQLite with ``PRAGMA query_only``.
    """
    if engine.dialect.name == "postgresql":
        return engine.execution_options(postgresql_readonly=True)
    return engine.execution_options(**{READ_ONLY: True})


def install_mysql(engine: Engine) -> None:
    """Begin read-only transactions explicitly; the others begin by themselves with the first statement."""

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get(READ_ONLY):
            connection.exec_driver_sql("START TRANSACTION READ ONLY")
