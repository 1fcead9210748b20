"""Telling Redis of a transaction's changes from where it ends: inside an event loop, or in blocking code without one."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from redis.asyncio import ConnectionPool, Redis
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from dotmac.database.caching._exchange import CacheUnavailableError, Exchange

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from typing import TypeAlias

    from dotmac.database.caching._entities import EntityCache

    Changes: TypeAlias = dict["EntityCache", "set[str] | None"]


def tell(changes: Changes, token: str, *, is_settled: bool) -> None:
    """Announce ``changes`` before COMMIT, or settle them after it. Never raises for Redis's sake.

    Returns when it is done, also if the caller is cancelled meanwhile; that is raised then.
    """
    given = [
        (cache, None if rows is None else sorted(rows))
        for cache, rows in changes.items()
        if rows is None or rows
    ]
    if not given:
        return
    if in_greenlet():
        await_only(_uninterrupted(_tell_all(given, token, is_settled=is_settled)))
    else:
        _in_thread(given, token, is_settled=is_settled)


async def _uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(work, name="dotmac-cache-changes")
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


async def _tell_all(
    given: Sequence[tuple[EntityCache, list[str] | None]], token: str, *, is_settled: bool
) -> None:
    for cache, rows in given:
        await (cache.settle(rows, token) if is_settled else cache.announce(rows, token))


def _in_thread(
    given: Sequence[tuple[EntityCache, list[str] | None]], token: str, *, is_settled: bool
) -> None:
    """On an event loop of its own, in a thread of its own: a loop may be running in this one."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(_tell_from_elsewhere(given, token, is_settled=is_settled))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that asked
            failures.append(error)

    thread = threading.Thread(target=run, name="dotmac-cache-changes", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


async def _tell_from_elsewhere(
    given: Sequence[tuple[EntityCache, list[str] | None]], token: str, *, is_settled: bool
) -> None:
    for cache, rows in given:
        if cache.client is None:  # the process's own client is right on any loop
            await _tell_all([(cache, rows)], token, is_settled=is_settled)
        else:
            await _tell_beside(cache, rows, token, is_settled=is_settled)


async def _tell_beside(cache: EntityCache, rows: list[str] | None, token: str, *, is_settled: bool) -> None:
    """Over a connection of its own: those of a client that was given belong to another loop."""
    if not isinstance(cache.client, Redis):
        if is_settled:
            cache.note_owed()
            cache.server.debts.owe(cache.scope, rows)
        return
    pool = cache.client.connection_pool
    client = Redis(
        connection_pool=ConnectionPool(
            connection_class=pool.connection_class, max_connections=1, **pool.connection_kwargs
        )
    )
    exchange = Exchange(client, cache.server.breaker)
    try:
        await cache.tell_over(exchange, rows, token, is_settled=is_settled)
    except CacheUnavailableError:
        if is_settled:
            cache.note_owed()
            cache.server.debts.owe(cache.scope, rows)
    finally:
        await exchange.close()
        await client.connection_pool.disconnect()
