"""Connections for migrations: one engine without a pool, for whichever driver the URL names, loop running or not."""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import URL

_T = TypeVar("_T")

SQLITE_BEGIN: Final = "dotmac_sqlite_begin"
_SQLITE_BUSY_SECONDS: Final = 60


def with_connection(url: URL, work: Callable[[Connection], None], *, options: Mapping[str, Any]) -> None:
    """Call ``work`` with a connection to ``url``, then close it. Async drivers are driven from a loop of their own.

    Works where a loop is running already: the async engine then lives in a thread of its own, and this call blocks.

    Args:
        url: Any driver. ``postgresql+psycopg`` is both and is used blocking; ``psycopg_async`` is async.
        work: Gets a blocking connection, also over an async driver (SQLAlchemy's greenlet bridge).
        options: More arguments for ``create_engine``; they win over the ones chosen here.
    """
    arguments = _engine_arguments(url, options)
    if url.get_dialect().is_async:
        outside_loop(lambda: asyncio.run(_work_async(url, work, arguments)))
        return
    engine = create_engine(url, **arguments)
    try:
        _prepare(engine)
        with engine.connect() as connection:
            work(connection)
    finally:
        engine.dispose()


async def _work_async(url: URL, work: Callable[[Connection], None], arguments: dict[str, Any]) -> None:
    engine = create_async_engine(url, **arguments)
    try:
        _prepare(engine.sync_engine)
        async with engine.connect() as connection:
            await connection.run_sync(work)
    finally:
        await engine.dispose()


def outside_loop(function: Callable[[], _T]) -> _T:
    """What ``function`` returns, called in a thread of its own if an event loop runs in this one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return function()
    context = contextvars.copy_context()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="dotmac-migrations") as threads:
        return threads.submit(context.run, function).result()


def _engine_arguments(url: URL, options: Mapping[str, Any]) -> dict[str, Any]:
    connect_args = _connect_args(url) | dict(options.get("connect_args", {}))
    return {"poolclass": NullPool} | dict(options) | {"connect_args": connect_args}


def _connect_args(url: URL) -> dict[str, Any]:
    if url.get_driver_name() == "asyncpg":
        # Prepared statements go stale when a revision alters the table they read.
        return {"prepared_statement_cache_size": 0, "statement_cache_size": 0}
    if url.get_backend_name() == "sqlite":
        return {"timeout": _SQLITE_BUSY_SECONDS}
    return {}


def _prepare(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _sqlite_manual_begin)
        event.listen(engine, "begin", _sqlite_begin)


def _sqlite_manual_begin(dbapi_connection: Any, _record: Any) -> None:
    # Python's driver begins before INSERT but not before CREATE TABLE; so a failed revision would stay half-applied.
    dbapi_connection.isolation_level = None


def _sqlite_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql(options.get(SQLITE_BEGIN, "BEGIN"))
