"""A short way to Redis: a few connections of the pool kept at hand, and commands sent on them without ceremony.

Taking a connection from redis-py's pool and giving it back, with its locks and metrics, costs as much as the command. A
cluster's client finds the node itself, so there the ordinary way is taken.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

_MOST_KEPT = 4
_KEPT_SHARE = 4


class Lane:
    """One event loop's way to one Redis.

    Args:
        client: Whose connections are used; at most a quarter of them, and at most four, are kept.
    """

    def __init__(self, client: Redis | RedisCluster) -> None:
        self._client = client
        self._pool: Any = None
        self._kept: list[Any] = []
        self._most_kept = 0
        self._socket_timeout: float | None = None
        if isinstance(client, Redis):
            pool: Any = client.connection_pool
            self._pool = getattr(pool, "of_this_loop", pool)
            self._most_kept = min(_MOST_KEPT, self._pool.max_connections // _KEPT_SHARE)

    async def send(self, words: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """What Redis answers, undecoded; raises what redis-py raises."""
        if self._pool is None:
            return await self._client.execute_command(*words, NEVER_DECODE=True, **options)
        if self._kept:
            try:
                return await self._send_on(self._kept.pop(), words)
            except RedisConnectionError:
                # Closed while it was idle, by a restart for instance. What else was kept is no better.
                await self.close()
        connection = await self._pool.get_connection()
        # The deadline is ours. redis-py's own makes a task for each command, and on Python 3.11 that task may swallow
        # the cancellation of its caller.
        self._socket_timeout, connection.socket_timeout = connection.socket_timeout, None
        return await self._send_on(connection, words)

    async def close(self) -> None:
        """Give the connections back."""
        kept, self._kept = self._kept, []
        for connection in kept:
            await self._give_back(connection, broken=True)

    async def _send_on(self, connection: Any, words: tuple[Any, ...]) -> Any:
        try:
            await connection.send_packed_command(packed(words), check_health=False)
            answer = await connection.read_response(disable_decoding=True)
        except ResponseError:
            await self._keep(connection)
            raise
        except BaseException:
            await self._give_back(connection, broken=True)
            raise
        await self._keep(connection)
        return answer

    async def _keep(self, connection: Any) -> None:
        if len(self._kept) < self._most_kept:
            self._kept.append(connection)
        else:
            await self._give_back(connection, broken=False)

    async def _give_back(self, connection: Any, *, broken: bool) -> None:
        if broken:
            with suppress(Exception):
                await connection.disconnect(nowait=True)
        connection.socket_timeout = self._socket_timeout
        with suppress(KeyError):  # the pool was closed meanwhile, and knows it no more
            await self._pool.release(connection)


def packed(words: tuple[Any, ...]) -> bytes:
    """A command in Redis's protocol (https://redis.io/docs/latest/develop/reference/protocol-spec/)."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        text = word if type(word) is bytes else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
    return b"".join(parts)
