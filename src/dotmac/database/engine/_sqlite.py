"""SQLite made to behave like a server: foreign keys, waiting for locks, real transactions, one shared memory database.

The driver's own transaction control is off and BEGIN is ours, so SAVEPOINT works and DDL rolls back
(https://www.sqlite.org/lang_transaction.html). A memory database lives in a named in-memory file that an idle
connection keeps alive: a cancelled statement may close the working connection without losing the data. It is handed
out to one task or thread at a time, because one connection has one transaction.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import uuid
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy import pool as pools
from sqlalchemy.dialects.sqlite.base import SQLiteTypeCompiler

from dotmac.database.errors import ConnectionPoolError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import URL, Connection, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

BUSY_TIMEOUT_MILLISECONDS = 5_000
_MEMDB_SINCE = (3, 36)


@dataclass(frozen=True, slots=True)
class SqlitePlan:
    """What kind of SQLite database a URL names.

    Attributes:
        is_memory: It lives in memory.
        is_read_only: The file is opened for reading only, so its journal mode is left alone.
        memory_name: A URI under which this engine's private memory database is shared, if it has no name of its own.
    """

    is_memory: bool
    is_read_only: bool
    memory_name: str | None


def plan(url: URL) -> SqlitePlan:
    """Tell a memory database from a file."""
    database = url.database or ":memory:"
    private = database == ":memory:"
    named = (
        database.startswith("file::memory:")
        or url.query.get("mode") == "memory"
        or url.query.get("vfs") == "memdb"
    )
    return SqlitePlan(
        is_memory=private or named,
        is_read_only=url.query.get("mode") == "ro" or "immutable" in url.query,
        memory_name=_fresh_memory_name() if private else None,
    )


def _fresh_memory_name() -> str:
    name = f"dotmac-{uuid.uuid4().hex}"
    if sqlite3.sqlite_version_info >= _MEMDB_SINCE:
        return f"file:/{name}?vfs=memdb"
    return f"file:{name}?mode=memory&cache=shared"


def connect_arguments(sqlite_plan: SqlitePlan, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for ``sqlite3.connect``; what the caller gave wins."""
    arguments: dict[str, Any] = {"isolation_level": None, "check_same_thread": False}
    if sqlite_plan.memory_name is not None:
        arguments["uri"] = True
    return {**arguments, **given}


def memory_pool(*, is_async: bool) -> dict[str, Any]:
    """Pool arguments for a memory database: one connection, handed out to one holder at a time."""
    return {"poolclass": _AsyncOnePool if is_async else _OnePool, "pool_size": 1, "max_overflow": 0}


def _current_holder() -> object:
    try:
        return asyncio.current_task() or threading.current_thread()
    except RuntimeError:
        return threading.current_thread()


class _OnePool(pools.QueuePool):
    """One connection. Whoever holds it and asks for a second one would wait for himself: that raises."""

    _holder: weakref.ref[Any] | None = None

    def _do_get(self) -> ConnectionPoolEntry:
        holder = _current_holder()
        if self._holder is not None and self._holder() is holder and self.checkedout() > 0:
            raise ConnectionPoolError(
                "This task already uses the memory database's only connection in a session or connection of its "
                "own. Work in that one, end its transaction first, or use a file: sqlite:///test.db."
            )
        entry = super()._do_get()
        self._holder = weakref.ref(holder)
        return entry

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        self._holder = None
        super()._do_return_conn(record)


class _AsyncOnePool(_OnePool, pools.AsyncAdaptedQueuePool):
    """The same for an asyncio engine."""


class _TypeCompiler(SQLiteTypeCompiler):
    """Spells ``UUID`` as the text it is: SQLite takes its name for a number's and would keep all-digit ones as such."""

    def visit_UUID(self, type_: Any, **_keywords: Any) -> str:  # noqa: ARG002, N802 - SQLAlchemy's name
        """Same as for the generic ``Uuid``: hexadecimal digits."""
        return "CHAR(32)"


def install(engine: Engine, sqlite_plan: SqlitePlan, isolation_level: str | None) -> None:
    """Teach ``engine`` the pragmas, BEGIN, UUID columns and, for a private memory database, where it lives."""
    engine.dialect.type_compiler_instance = _TypeCompiler(engine.dialect)
    if sqlite_plan.memory_name is not None:
        _install_memory(engine, sqlite_plan.memory_name)

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MILLISECONDS}")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA case_sensitive_like = ON")  # as elsewhere; ILIKE compares in lower case
        if not sqlite_plan.is_memory and not sqlite_plan.is_read_only:
            cursor.execute("PRAGMA journal_mode = WAL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("isolation_level", isolation_level) != "AUTOCOMMIT":
            connection.exec_driver_sql(f"BEGIN {options.get('sqlite_begin', 'DEFERRED')}")


def _install_memory(engine: Engine, name: str) -> None:
    anchors: list[sqlite3.Connection] = []

    def close_anchors() -> None:
        while anchors:
            anchors.pop().close()

    @event.listens_for(engine, "do_connect")
    def open_by_name(_dialect: Any, _entry: Any, arguments: list[Any], _keywords: dict[str, Any]) -> None:
        if not anchors:
            anchors.append(sqlite3.connect(name, uri=True, check_same_thread=False))
        arguments[:] = [name]

    @event.listens_for(engine, "engine_disposed")
    def forget(_engine: Engine) -> None:
        close_anchors()

    weakref.finalize(engine, close_anchors)
