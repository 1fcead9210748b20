"""Open a connection so that giving up on it never leaves it behind.

A connect that is cancelled, or that passes its deadline, goes on in the background and its connection is closed the
moment it arrives: no server session is left without an owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from threading import Thread
from typing import TYPE_CHECKING, Any

from dotmac.database.engine import _fused_begin, _postgresql

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_LAST_WORDS_SECONDS = 1.0
_abandoned: set[asyncio.Future[Any]] = set()


def careful_connector(
    driver: str, timeout_seconds: float, opener: Callable[..., Awaitable[Any]] | None = None
) -> Callable[..., Awaitable[Any]]:
    """A coroutine function that opens a driver connection within ``timeout_seconds`` and leaks none when cancelled.

    Args:
        driver: ``asyncpg``, ``psycopg``, ``aiosqlite``, ``asyncmy`` or ``aiomysql``.
        timeout_seconds: For the whole attempt: name lookup, TCP, TLS, authentication.
        opener: Used instead of the driver's own ``connect``.
    """
    open_connection = opener or _openers[driver]

    async def connect(*arguments: Any, **keywords: Any) -> Any:
        opening = asyncio.ensure_future(open_connection(*arguments, **keywords))
        try:
            await asyncio.wait({opening}, timeout=timeout_seconds)
        except asyncio.CancelledError:
            _abandon(opening, driver, timeout_seconds)
            raise
        if not opening.done():
            _abandon(opening, driver, 0)
            raise TimeoutError(f"The database server did not answer within {timeout_seconds:g} s.")
        connection = opening.result()
        _keep_alive(connection)
        return connection

    return connect


def _abandon(opening: asyncio.Future[Any], driver: str, grace_seconds: float) -> None:
    _abandoned.add(opening)
    timer = asyncio.get_running_loop().call_later(grace_seconds, opening.cancel)

    def close(finished: asyncio.Future[Any]) -> None:
        timer.cancel()
        _abandoned.discard(finished)
        if not finished.cancelled() and finished.exception() is None:
            with contextlib.suppress(Exception):
                _close_now(driver, finished.result())

    opening.add_done_callback(close)


def _close_now(driver: str, connection: Any) -> None:
    """Close without waiting, whatever the driver calls that."""
    if driver == "asyncpg":
        connection.terminate()
    elif driver == "psycopg":
        connection.pgconn.finish()
    elif driver == "aiosqlite":
        connection.stop()
    else:
        connection.close()


def cut_off(connection: Any) -> None:
    """Close a driver connection whose event loop has ended: nothing of it can be awaited or scheduled any more."""
    if (libpq := getattr(connection, "pgconn", None)) is not None:
        libpq.finish()
        return
    # Each of these closes what it can before it meets the closed loop and says so.
    for name in ("stop", "terminate", "close"):
        if hasattr(connection, name):
            with contextlib.suppress(RuntimeError):
                getattr(connection, name)()
            break
    transport = _transport(connection)
    if transport is not None and hasattr(transport, "_call_connection_lost"):
        # The call the loop would have made next; without it the socket is closed by a warning destructor.
        transport._call_connection_lost(None)  # noqa: SLF001
    if getattr(connection, "_writer", None) is not None:
        connection._writer = None  # noqa: SLF001


def _transport(connection: Any) -> Any:
    """The asyncio transport under a pure asyncio driver's connection, if it can be seen."""
    found = getattr(connection, "_transport", None) or getattr(connection, "_writer", None)
    return getattr(found, "transport", found)


async def _open_asyncpg(*arguments: Any, **keywords: Any) -> Any:
    import asyncpg  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra

    kind = _fused_begin.asyncpg_class(keywords.pop("connection_class", None))
    return await asyncpg.connect(*arguments, connection_class=kind, **keywords)


async def _open_psycopg(*arguments: Any, **keywords: Any) -> Any:
    return await _fused_begin.psycopg_classes()[1].connect(*arguments, **keywords)


async def _open_aiosqlite(*arguments: Any, **keywords: Any) -> Any:
    import aiosqlite  # noqa: PLC0415 - an extra

    connection = aiosqlite.connect(*arguments, **keywords)
    # A forgotten connection must not keep the interpreter from exiting.
    thread = connection if isinstance(connection, Thread) else connection._thread  # noqa: SLF001
    thread.daemon = True
    try:
        return await connection
    except Exception:
        # It still has to report its end, to a loop that may be closed by then.
        await asyncio.to_thread(thread.join, _LAST_WORDS_SECONDS)
        raise


async def _open_asyncmy(*arguments: Any, **keywords: Any) -> Any:
    import asyncmy  # noqa: PLC0415 - an extra

    return await asyncmy.connect(*arguments, **keywords)


async def _open_aiomysql(*arguments: Any, **keywords: Any) -> Any:
    import aiomysql  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra

    return await aiomysql.connect(*arguments, **keywords)


_openers: dict[str, Callable[..., Awaitable[Any]]] = {
    "asyncpg": _open_asyncpg,
    "psycopg": _open_psycopg,
    "aiosqlite": _open_aiosqlite,
    "asyncmy": _open_asyncmy,
    "aiomysql": _open_aiomysql,
}


def _keep_alive(connection: Any) -> None:
    """Have the kernel notice a dead peer. libpq does this from its own options; the pure asyncio drivers do not."""
    transport = _transport(connection)
    peer = transport.get_extra_info("socket") if transport is not None else None
    if peer is None or peer.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _postgresql.KEEPALIVE_IDLE_SECONDS),
        ("TCP_KEEPINTVL", _postgresql.KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", _postgresql.KEEPALIVE_COUNT),
        ("TCP_USER_TIMEOUT", _postgresql.USER_TIMEOUT_MILLISECONDS),
    ):
        if hasattr(socket, name):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
