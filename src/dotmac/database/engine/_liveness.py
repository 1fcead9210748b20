"""Hand out only connections that live, for almost nothing.

A connection used within the last half second whose socket is silent is trusted. Any other is pinged under a
deadline of its own. Each connection gets its own lifetime, so that a pool filled in one burst is not renewed in one.
"""

from __future__ import annotations

import asyncio
import random
import select
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, exc
from sqlalchemy.util import await_only, greenlet_spawn

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection, Dialect, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

TRUSTED_SECONDS = 0.5
PING_SECONDS = 5.0
_LIFETIME_SPREAD = 0.2

_LAST_USED = "dotmac_last_used"
_EXPIRES = "dotmac_expires"


def install(engine: Engine, *, driver: str, is_async: bool, checks: bool, recycle_seconds: float) -> None:
    """Watch the connections of ``engine``; see the module's first lines."""
    ping = (
        _async_ping(engine.dialect, driver) if is_async else _SYNC_PINGS.get(driver, engine.dialect.do_ping)
    )
    has_news = _NEWS.get((driver, is_async), _no_news)

    @event.listens_for(engine, "connect")
    def note_birth(_connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        now = time.monotonic()
        entry.info[_LAST_USED] = now
        if recycle_seconds > 0:
            # Spreading renewals needs no secrecy.
            entry.info[_EXPIRES] = now + recycle_seconds * (1 - _LIFETIME_SPREAD * random.random())  # noqa: S311

    @event.listens_for(engine, "checkin")
    def note_use(_connection: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
        entry.info[_LAST_USED] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def examine(connection: DBAPIConnection, entry: ConnectionPoolEntry, _proxy: Any) -> None:
        now = time.monotonic()
        if now > entry.info.get(_EXPIRES, now):
            raise exc.DisconnectionError("The connection reached the end of its lifetime.")
        if not checks:
            return
        if now - entry.info.get(_LAST_USED, 0.0) < TRUSTED_SECONDS and not has_news(connection):
            return
        if not _answers(ping, engine.dialect, connection):
            raise exc.InvalidatePoolError


def ping_blocking(connection: Connection) -> None:
    """One round trip on a blocking connection, within `PING_SECONDS` where the driver allows a deadline.

    Raises:
        TimeoutError: No answer in time.
    """
    ping = _SYNC_PINGS.get(connection.dialect.driver, connection.dialect.do_ping)
    ping(connection.connection.dbapi_connection)


def _answers(ping: Callable[[Any], object], dialect: Dialect, connection: DBAPIConnection) -> bool:
    try:
        ping(connection)
    except (OSError, TimeoutError):
        return False
    except Exception as error:
        if isinstance(error, dialect.loaded_dbapi.Error):
            return False
        raise
    return True


def _async_ping(dialect: Dialect, driver: str) -> Callable[[Any], object]:
    async def bounded(connection: Any) -> None:
        async with asyncio.timeout(PING_SECONDS):
            if driver == "psycopg":
                await _ping_psycopg_async(connection._connection.pgconn)  # noqa: SLF001
            else:
                await greenlet_spawn(dialect.do_ping, connection)

    def ping(connection: DBAPIConnection) -> None:
        await_only(bounded(connection))

    return ping


async def _ping_psycopg_async(libpq: Any) -> None:
    """As `_ping_psycopg`. The driver's own execute, when cancelled, waits 5 s more for the silent server."""
    loop = asyncio.get_running_loop()
    libpq.send_query(b";")
    try:
        while not _ping_answered(libpq):
            readable = asyncio.Event()
            loop.add_reader(libpq.socket, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(libpq.socket)
            libpq.consume_input()
    except BaseException:
        libpq.finish()
        raise


def _ping_answered(libpq: Any) -> bool:
    libpq.flush()
    while not libpq.is_busy():
        if libpq.get_result() is None:
            return True
    return False


def _ping_psycopg(connection: Any) -> None:
    """One empty query, one round trip, sent below the transaction layer: an idle connection has no transaction."""
    libpq = connection.pgconn
    deadline = time.monotonic() + PING_SECONDS
    libpq.send_query(b";")
    while not _ping_answered(libpq):
        if not _readable(libpq.socket, max(0.0, deadline - time.monotonic())):
            libpq.finish()
            raise TimeoutError
        libpq.consume_input()


def _ping_pymysql(connection: Any) -> None:
    before = connection._read_timeout  # noqa: SLF001 - the driver has no other way to bound one read
    connection._read_timeout = PING_SECONDS  # noqa: SLF001
    try:
        connection.ping()
    finally:
        connection._read_timeout = before  # noqa: SLF001


_SYNC_PINGS: dict[str, Callable[[Any], object]] = {"psycopg": _ping_psycopg, "pymysql": _ping_pymysql}


def _no_news(_connection: Any) -> bool:
    """For drivers whose socket cannot be seen, such as asyncmy: half a second of trust is all there is."""
    return False


def _readable(descriptor: int, within_seconds: float = 0.0) -> bool:
    """True when bytes or an end of file wait: nothing is due on an idle connection, so the server said goodbye."""
    if not hasattr(select, "poll"):
        return bool(select.select([descriptor], [], [], within_seconds)[0])
    # select() cannot watch descriptors above 1023.
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(within_seconds * 1000))


def _asyncpg_news(connection: Any) -> bool:
    driver = connection._connection  # noqa: SLF001 - the adapter's public name differs between SQLAlchemy versions
    if driver.is_closed():
        return True
    peer = driver._transport.get_extra_info("socket")  # noqa: SLF001
    return peer is None or _readable(peer.fileno())


def _psycopg_news(connection: Any) -> bool:
    libpq = getattr(connection, "_connection", connection).pgconn
    return libpq.status != 0 or _readable(libpq.socket)


def _stream_news(connection: Any) -> bool:
    driver = connection._connection  # noqa: SLF001
    return driver._reader is None or driver._reader.at_eof() or _writer_news(driver._writer)  # noqa: SLF001


def _writer_news(writer: Any) -> bool:
    peer = writer.get_extra_info("socket")
    return peer is None or _readable(peer.fileno())


def _pymysql_news(connection: Any) -> bool:
    return connection._sock is None or _readable(connection._sock.fileno())  # noqa: SLF001


_NEWS: dict[tuple[str, bool], Callable[[Any], bool]] = {
    ("asyncpg", True): _asyncpg_news,
    ("psycopg", True): _psycopg_news,
    ("psycopg", False): _psycopg_news,
    ("aiomysql", True): _stream_news,
    ("pymysql", False): _pymysql_news,
}
