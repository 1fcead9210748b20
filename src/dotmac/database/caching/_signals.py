"""Being told by Redis: one subscription connection for each event loop, on which waiters are woken.

Nobody polls. A lost connection is told to every listener, since what they wait for may have happened meanwhile; redis-py's
``PubSub`` would reconnect without a word.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from dotmac.database.caching._exchange import REDIS_FAILURES, CacheUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Listener = Callable[[bytes | None], None]

_logger = logging.getLogger("dotmac.database.caching")


class _Channel:
    """Who listens to one channel."""

    def __init__(self) -> None:
        self.confirmed = asyncio.Event()
        self.listeners: set[Listener] = set()


class Signals:
    """The subscriptions of one event loop.

    Args:
        make_connection: Makes a redis-py connection of its own; it is connected here.
    """

    def __init__(self, make_connection: Callable[[], Awaitable[Any]]) -> None:
        self._make_connection = make_connection
        self._connection: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._channels: dict[str, _Channel] = {}
        self._connecting = asyncio.Lock()
        self._pongs: dict[bytes, asyncio.Future[None]] = {}

    @asynccontextmanager
    async def listen(self, name: str, timeout_seconds: float, listener: Listener) -> AsyncIterator[None]:
        """Call ``listener`` with every message of the channel during the block; with None when the connection is lost.

        The server has confirmed the subscription before the block begins.

        Raises:
            CacheUnavailableError: It did not, within ``timeout_seconds``.
        """
        try:
            await self.subscribe(name, timeout_seconds, listener)
            yield
        finally:
            await self.unsubscribe(name, listener)

    async def subscribe(self, name: str, timeout_seconds: float, listener: Listener) -> None:
        """Same as `listen`, until `unsubscribe` or the loss of the connection."""
        try:
            async with asyncio.timeout(timeout_seconds):
                connection = await self._connected()
                channel = self._channels.get(name)
                is_new = channel is None
                if channel is None:
                    channel = self._channels[name] = _Channel()
                channel.listeners.add(listener)
                if is_new:
                    await connection.send_command("SUBSCRIBE", name, check_health=False)
                await channel.confirmed.wait()
        except REDIS_FAILURES as error:
            raise CacheUnavailableError(type(error).__name__) from error
        if listener not in channel.listeners:
            raise CacheUnavailableError("The subscription was lost.")

    async def unsubscribe(self, name: str, listener: Listener) -> None:
        """End what `subscribe` began; the last listener's end is told to the server."""
        channel = self._channels.get(name)
        if channel is None or listener not in channel.listeners:
            return
        channel.listeners.discard(listener)
        if not channel.listeners and self._connection is not None:
            del self._channels[name]
            with suppress(*REDIS_FAILURES):
                await self._connection.send_command("UNSUBSCRIBE", name, check_health=False)

    async def ping(self, timeout_seconds: float, mark: bytes) -> None:
        """Return when the server has answered on this connection, after everything it had published before.

        Raises:
            CacheUnavailableError: It did not, within ``timeout_seconds``.
        """
        if self._connection is None:
            raise CacheUnavailableError("There is no subscription.")
        pong = self._pongs[mark] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._connection.send_command("PING", mark, check_health=False)
                await pong
        except REDIS_FAILURES as error:
            raise CacheUnavailableError(type(error).__name__) from error
        finally:
            self._pongs.pop(mark, None)

    async def close(self) -> None:
        """End every subscription; listeners are told."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader
        await self._lose(self._connection)

    def abandon(self) -> None:
        """Forget the connection of a loop that is gone; returns it to be closed without that loop."""
        self._connection = None

    @property
    def connection(self) -> Any:
        """The connection, if there is one."""
        return self._connection

    async def _connected(self) -> Any:
        if self._connection is not None:
            return self._connection
        async with self._connecting:
            if self._connection is None:
                connection = await self._make_connection()
                connection.socket_timeout = None  # nothing to read is no fault here
                try:
                    await connection.connect()
                except BaseException:
                    await connection.disconnect(nowait=True)
                    raise
                self._connection = connection
                self._reader = asyncio.create_task(self._read(connection), name="dotmac-cache-signals")
            return self._connection

    async def _read(self, connection: Any) -> None:
        try:
            while True:
                self._handle(
                    await connection.read_response(
                        disable_decoding=True, disconnect_on_error=False, push_request=True
                    )
                )
        except REDIS_FAILURES as error:
            _logger.info("The cache's subscription was lost: %s.", type(error).__name__)
        finally:
            if self._reader is asyncio.current_task():
                self._reader = None
            await self._lose(connection)

    def _handle(self, message: Any) -> None:
        if isinstance(message, bytes):  # RESP3 answers PING as it does anywhere
            self._answered(message)
            return
        kind = message[0]
        if kind == b"pong":
            self._answered(message[1])
            return
        channel = self._channels.get(message[1].decode())
        if channel is None:
            return
        if kind == b"subscribe":
            channel.confirmed.set()
        elif kind == b"message":
            for listener in list(channel.listeners):
                listener(message[2])

    def _answered(self, mark: bytes) -> None:
        pong = self._pongs.get(mark)
        if pong is not None and not pong.done():
            pong.set_result(None)

    async def _lose(self, connection: Any) -> None:
        if connection is None:
            return
        if self._connection is connection:
            self._connection = None
            channels, self._channels = self._channels, {}
            for channel in channels.values():
                listeners, channel.listeners = channel.listeners, set()
                channel.confirmed.set()
                for listener in listeners:
                    listener(None)
        with suppress(*REDIS_FAILURES, RuntimeError):
            await connection.disconnect(nowait=True)
