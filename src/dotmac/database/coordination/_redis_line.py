"""Who waits for a lock of Redis: one at a time for each process, in order, woken by the release and never polling.

One connection per client and event loop listens for releases, as long as somebody waits. The first in a lock's line is
the only one of this process that asks Redis; the others wait behind it.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dotmac.database.coordination._lock import to_the_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis, RedisCluster

_listeners: dict[tuple[int, int], Listener] = {}


@asynccontextmanager
async def in_line(client: Redis | RedisCluster, channel: str) -> AsyncIterator[Wakeups]:
    """Wait until everybody of this process who came earlier has left the line, then hear what happens on ``channel``."""
    key = (id(asyncio.get_running_loop()), id(client))
    listener = _listeners.get(key)
    if listener is None:
        listener = _listeners[key] = Listener(client)
    line = listener.lines.setdefault(channel, _Line())
    line.length += 1
    try:
        async with line.turn:
            wakeups = Wakeups(listener, channel)
            line.wakeups = wakeups
            try:
                yield wakeups
            finally:
                line.wakeups = None
    finally:
        line.length -= 1
        if not line.length:
            del listener.lines[channel]
        if not listener.lines:
            del _listeners[key]
            await to_the_end(listener.close())
        elif not line.length:
            await to_the_end(listener.leave(channel))


@dataclass(slots=True)
class _Line:
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    length: int = 0
    wakeups: Wakeups | None = None


class Wakeups:
    """What the first in line hears."""

    def __init__(self, listener: Listener, channel: str) -> None:
        self._listener = listener
        self._channel = channel
        self._heard = asyncio.Event()

    async def listen(self) -> None:
        """Have the server announce releases; the first wake-up says that it does from now on.

        Raises:
            RedisError: The server cannot be reached, or forbids the channel.
        """
        if await self._listener.hear(self._channel):
            self._heard.set()

    async def wait(self, seconds: float) -> None:
        """Until something happened, or ``seconds`` went by.

        Raises:
            RedisError: The listening connection failed; call `listen` again.
        """
        timer = asyncio.get_running_loop().call_later(seconds, self._heard.set)
        try:
            await self._heard.wait()
        finally:
            timer.cancel()
            self._heard.clear()
        if self._listener.error is not None:
            raise self._listener.error

    def wake(self) -> None:
        """Something happened."""
        self._heard.set()


class Listener:
    """The one connection of a client and event loop that hears of releases."""

    def __init__(self, client: Redis | RedisCluster) -> None:
        self.lines: dict[str, _Line] = {}
        self.error: Exception | None = None
        self._client = client
        self._pubsub: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._heard: set[str] = set()
        self._lock = asyncio.Lock()

    async def hear(self, channel: str) -> bool:
        """Subscribe to ``channel``; True if it was heard already. The confirmation wakes the line's first."""
        async with self._lock:
            if self.error is not None:
                await self._end()
                self.error = None
            if channel in self._heard:
                return True
            if self._pubsub is None:
                self._pubsub = self._client.pubsub()
            await self._pubsub.subscribe(channel)
            self._heard.add(channel)
            if self._reader is None:
                self._reader = asyncio.create_task(self._read())
            return False

    async def leave(self, channel: str) -> None:
        """Nobody waits on ``channel`` any more."""
        async with self._lock:
            if channel in self.lines or channel not in self._heard:
                return
            self._heard.discard(channel)
            try:
                await self._pubsub.unsubscribe(channel)
            except Exception as error:  # noqa: BLE001 - whoever still waits hears of it
                self._fail(error)

    async def close(self) -> None:
        """End the connection, also when cancelled meanwhile."""
        async with self._lock:
            await self._end()

    async def _end(self) -> None:
        reader, self._reader = self._reader, None
        pubsub, self._pubsub = self._pubsub, None
        self._heard.clear()
        if reader is not None:
            reader.cancel()
            await asyncio.wait({reader})
        if pubsub is not None:
            await pubsub.aclose()

    async def _read(self) -> None:
        try:
            while True:
                message = await self._pubsub.get_message(timeout=None)
                # A confirmation too: after a reconnection it says that releases may have gone unheard.
                if message is None or message["type"] not in {"message", "subscribe"}:
                    continue
                channel = message["channel"]
                line = self.lines.get(channel.decode() if isinstance(channel, bytes) else channel)
                if line is not None and line.wakeups is not None:
                    line.wakeups.wake()
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.error = error
        for line in self.lines.values():
            if line.wakeups is not None:
                line.wakeups.wake()
