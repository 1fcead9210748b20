"""What one event loop uses of one Redis: the exchange, the subscriptions, the loads that are under way."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redis.asyncio import RedisCluster

from dotmac.database._per_loop import PerLoop
from dotmac.database.caching._client import abandon_connection, server_in_use
from dotmac.database.caching._copies import Copies
from dotmac.database.caching._debts import Debts
from dotmac.database.caching._exchange import CacheUnavailableError, Exchange, breaker_for
from dotmac.database.caching._keys import COPIES_TAG
from dotmac.database.caching._signals import Signals
from dotmac.database.caching._store import remove_owed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from redis.asyncio import Redis

    from dotmac.database.caching._keys import Scope
    from dotmac.database.caching._loading import Flight
    from dotmac.database.caching._memory import Memory
    from dotmac.database.transactions import CircuitBreaker

_COLLECT_SECONDS = 1.0
_PATIENT_SECONDS = 2.0
_lock = threading.Lock()


class Link:
    """One event loop's use of one Redis."""

    def __init__(self, client: Redis | RedisCluster, breaker: CircuitBreaker, debts: Debts) -> None:
        self.exchange = Exchange(client, breaker)
        self.debts = debts
        self.signals = Signals(self._make_connection)
        self.flights: dict[str, Flight] = {}
        self.memories: dict[object, Memory] = {}
        self._copies: dict[str, Copies] = {}
        self._client = client
        self._background: set[asyncio.Task[Any]] = set()
        self._settling: asyncio.Task[None] | None = None
        self._settling_since = 0.0
        self._collector: asyncio.Task[None] | None = None

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run ``work`` in a task that is kept until it ends, and cancelled when the link is closed."""
        task = asyncio.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for the task gets it; nobody has to

    def copies(self, scope: Scope) -> Copies:
        """What keeps copies in memory coherent, for the scope's prefix."""
        copies = self._copies.get(scope.copies)
        if copies is None:
            copies = self._copies[scope.copies] = Copies(self, scope.copies)
        return copies

    def owe(self, scope: Scope, texts: Iterable[str] | None) -> None:
        """Remember what Redis could not be told to remove; it is told as soon as it answers."""
        self.debts.owe(scope, texts)
        if self._collector is None or self._collector.done():
            self._collector = self.start(self._collect(), "dotmac-cache-debts")

    async def settle(self, timeout_seconds: float) -> None:
        """Remove what is owed, before anything else is asked. All who ask share one attempt.

        Raises:
            CacheUnavailableError: Redis did not do it in that time, counted from when the attempt began: whoever comes
                later to one that hangs does not wait at all.
        """
        while self.debts:
            if self._settling is None or self._settling.done():
                self._settling = self.start(self._remove_all_owed(timeout_seconds), "dotmac-cache-settle")
                self._settling_since = time.monotonic()
            settling = self._settling
            patience = self._settling_since + timeout_seconds - time.monotonic()
            await asyncio.wait({settling}, timeout=max(patience, 0.0))
            if not settling.done() or settling.cancelled():
                raise CacheUnavailableError("What it missed while it was away is still to be removed.")
            settling.result()

    async def _remove_all_owed(self, timeout_seconds: float) -> None:
        for debt in self.debts.open_ones():
            mark = await remove_owed(self.exchange, debt.scope, debt.texts, timeout_seconds)
            await self.copies(debt.scope).changed(None, debt.scope.tag, mark)
            self.debts.paid(debt)

    async def _collect(self) -> None:
        while self.debts:
            await asyncio.sleep(_COLLECT_SECONDS)
            with suppress(CacheUnavailableError):
                await self.settle(_PATIENT_SECONDS)

    async def close(self) -> None:
        """Cancel what runs, and end the subscriptions."""
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.signals.close()
        await self.exchange.close()

    def abandon(self) -> None:
        """Let go of a loop that is gone."""
        if self.signals.connection is not None:
            abandon_connection(self.signals.connection)
            self.signals.abandon()

    async def _make_connection(self) -> Any:
        client = self._client
        if isinstance(client, RedisCluster):
            await client.initialize()
            # What is published at this node is heard there in order, and members are noted there.
            node: Any = client.get_node_from_key(COPIES_TAG)
            return node.connection_class(**node.connection_kwargs)
        pool: Any = client.connection_pool
        return getattr(pool, "of_this_loop", pool).make_connection()


class LinkedServer:
    """One Redis, as caches use it: a breaker for the process, a link for each event loop.

    Args:
        client: Returns the client for the running event loop.
        name: Names the breaker in logs.
    """

    def __init__(self, client: Callable[[], Redis | RedisCluster], name: str = "cache") -> None:
        self.breaker = breaker_for(name)
        self.debts = Debts()
        self._links: PerLoop[Link] = PerLoop(lambda: Link(client(), self.breaker, self.debts))

    def link(self) -> Link:
        """The running event loop's link.

        Raises:
            RuntimeError: No event loop runs here.
        """
        return self._links.current()

    async def close(self) -> None:
        """Close the running event loop's link; the next use makes another."""
        await self._links.close()


_linked: weakref.WeakKeyDictionary[Any, LinkedServer] = weakref.WeakKeyDictionary()


def linked(client: Redis | RedisCluster) -> LinkedServer:
    """What caches share that were given the same client."""
    with _lock:
        server = _linked.get(client)
        if server is None:
            reference = weakref.ref(client)
            server = _linked[client] = LinkedServer(lambda: _alive(reference()))
        return server


async def close_redis_client() -> None:
    """Close the running event loop's connections; the next command opens new ones. Nothing was used, nothing happens."""
    server = server_in_use()
    if server is None:
        return
    for client, link in list(_linked.items()):
        if server.is_of(client):
            await link.close()
    await server.close()


def _alive(client: Redis | RedisCluster | None) -> Redis | RedisCluster:
    if client is None:
        raise ReferenceError("The Redis client of this cache is gone.")
    return client
