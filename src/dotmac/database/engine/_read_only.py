"""Read-only at the server: not a promise of the caller but a transaction that refuses writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import event

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    AnyEngine = TypeVar("AnyEngine", Engine, AsyncEngine)

_OPTION = "dotmac_read_only"
_SWITCHES = {
    "sqlite": ("PRAGMA query_only = OFF", "PRAGMA query_only = ON"),
    # START TRANSACTION READ ONLY would let DDL through, which ends the transaction first.
    "mysql": ("SET SESSION TRANSACTION READ WRITE", "SET SESSION TRANSACTION READ ONLY"),
    "mariadb": ("SET SESSION TRANSACTION READ WRITE", "SET SESSION TRANSACTION READ ONLY"),
}


def read_only(engine: AnyEngine) -> AnyEngine:
    """The same engine and pool, every transaction of which is read-only at the server.

    PostgreSQL begins it with ``BEGIN READ ONLY``, at no extra round trip. MySQL and SQLite switch the session when a
    pooled connection changes between reading and writing: one round trip then, none otherwise.
    """
    if engine.dialect.name == "postgresql":
        return engine.execution_options(postgresql_readonly=True)
    return engine.execution_options(**{_OPTION: True})


def install(engine: Engine) -> None:
    """Switch the connections of a MySQL or SQLite ``engine`` when a transaction begins."""
    switches = _SWITCHES[engine.dialect.name]

    @event.listens_for(engine, "begin")
    def switch(connection: Connection) -> None:
        wanted = bool(connection.get_execution_options().get(_OPTION))
        if connection.info.get(_OPTION, False) != wanted:
            connection.exec_driver_sql(switches[wanted])
            connection.info[_OPTION] = wanted
