"""One exchange with Redis: within its deadline, through the breaker, or `CacheUnavailableError`.

A cache that does not answer must cost less than the work it saves: an exchange ends after 100 ms, and after repeated
failures nothing is sent for a second.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from redis.asyncio import RedisCluster
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    NoScriptError,
    RedisClusterException,
    RedisError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from dotmac.database._tls import tls_refusal
from dotmac.database.caching._lane import Lane
from dotmac.database.errors import CircuitOpenError
from dotmac.database.transactions import CircuitBreaker

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from dotmac.database.caching._scripts import Script

_logger = logging.getLogger("dotmac.database.caching")
REDIS_FAILURES = (OSError, RedisError, RedisClusterException)
"""What redis-py raises when Redis did not do it; a cluster that nobody reaches is no `RedisError`."""
_CONNECTION_FAILURES = (
    OSError,
    RedisConnectionError,
    RedisTimeoutError,
    BusyLoadingError,
    ClusterDownError,
    RedisClusterException,
)
_FAILURES_TO_OPEN = 3
_RECOVERY_SECONDS = 1.0


class CacheUnavailableError(Exception):
    """Redis did not do it: down, too slow, or refused. Callers of a cache see a miss instead."""


def breaker_for(name: str) -> CircuitBreaker:
    """A breaker that opens when Redis is not reached; whatever else it answers is its answer."""
    return CircuitBreaker(
        _FAILURES_TO_OPEN,
        _RECOVERY_SECONDS,
        window_seconds=10.0,
        name=name,
        counts=lambda error: isinstance(error, _CONNECTION_FAILURES),
    )


class Exchange:
    """Sends commands to one Redis.

    Args:
        client: How to reach it.
        breaker: Shared by everything in the process that uses this Redis.
    """

    def __init__(self, client: Redis | RedisCluster, breaker: CircuitBreaker) -> None:
        self.client = client
        self._lane = Lane(client)
        self._send = breaker(self._within_deadline)
        self._has_warned = False

    async def command(self, timeout_seconds: float, *words: Any, **options: Any) -> Any:
        """What Redis answers, undecoded.

        Raises:
            CacheUnavailableError: It did not, or with an error.
        """
        try:
            return await self._send(timeout_seconds, words, options)
        except (*REDIS_FAILURES, CircuitOpenError) as error:
            raise self._unavailable(error) from error

    async def run(
        self, timeout_seconds: float, script: Script, keys: tuple[str, ...], *arguments: Any
    ) -> Any:
        """What a script answers; the server is sent its text when it does not know it.

        Raises:
            CacheUnavailableError: Redis did not answer, or with an error.
        """
        words = ("EVALSHA", script.digest, len(keys), *keys, *arguments)
        try:
            return await self._send(timeout_seconds, words, {})
        except NoScriptError:
            return await self.command(timeout_seconds, "EVAL", script.text, *words[2:])
        except (*REDIS_FAILURES, CircuitOpenError) as error:
            raise self._unavailable(error) from error

    async def primaries(self) -> list[dict[str, Any]]:
        """Options of `command` that reach every node that holds keys, one after the other.

        Raises:
            CacheUnavailableError: The cluster did not say which they are.
        """
        if not isinstance(self.client, RedisCluster):
            return [{}]
        try:
            await self.client.initialize()
        except REDIS_FAILURES as error:
            raise self._unavailable(error) from error
        return [{"target_nodes": node} for node in self.client.get_primaries()]

    async def close(self) -> None:
        """Give connections back to the client."""
        await self._lane.close()

    def _unavailable(self, error: Exception) -> CacheUnavailableError:
        if not self._has_warned and (refusal := tls_refusal(error)):
            self._has_warned = True
            _logger.warning("The cache does not reach Redis, so everything is a miss (%s).", refusal)
        return CacheUnavailableError(type(error).__name__)

    async def _within_deadline(
        self, timeout_seconds: float, words: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        async with asyncio.timeout(timeout_seconds):
            return await self._lane.send(words, options)
