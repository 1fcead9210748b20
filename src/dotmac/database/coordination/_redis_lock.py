"""A lock in Redis: a lease that is renewed while its block runs, and a number that tells later holders from earlier ones."""

from __future__ import annotations

import asyncio
import math
import random
import secrets
from typing import TYPE_CHECKING

from redis.exceptions import RedisClusterException, RedisError, ResponseError

from dotmac.database._tls import tls_refusal
from dotmac.database.coordination import _redis_scripts as scripts
from dotmac.database.coordination._lock import Lock, logger, to_the_end
from dotmac.database.coordination._names import checked_name, in_seconds, owner_of
from dotmac.database.coordination._redis_line import in_line
from dotmac.database.coordination._watch import Watch
from dotmac.database.errors import LockUnavailableError

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster

    from dotmac.database.coordination._names import Seconds

_FAILURES = (RedisError, RedisClusterException, OSError, TimeoutError)
_SHORTEST_TTL_SECONDS = 0.05
_ANSWER_SECONDS = 5.0
# The server's clock may run faster than ours; the Redlock description allows for as much.
_DRIFT = 0.01
_VOID_MILLISECONDS = 60_000
_RENEWALS_PER_TTL = 3
_TRIES_PER_TTL = 10


class RedisLock(Lock):
    """A lock that every process with the same Redis respects. Without ``wait`` it is taken at once or not at all.

    It is renewed as long as the block runs, so ``ttl`` only says how long others wait for a process that died. A process
    that was stopped for longer than that has lost it: ``lost`` is set, and the block ends with LockLostError.

    Args:
        name: What is locked. It belongs to the tenant that is bound, so that tenants do not meet.
        ttl: Seconds (or a timedelta) that the lock outlives its process.
        wait: How long to wait for it; ``math.inf`` for as long as it takes.
        client: The redis-py client to use; the process-wide one if None.
        renew: False for a lock that ends after ``ttl`` whatever its block does.
        cancel_when_lost: Cancel the block when the lock is lost; it then ends with LockLostError.
        shared: One lock for all tenants, and for work without a tenant.

    Example:
        >>> async def import_once() -> str:
        ...     async with RedisLock("import:user-data", ttl=60) as lock:
        ...         return "imported" if lock.acquired else "already running"

    Raises:
        LockUnavailableError: On entering: Redis did not answer, so that nobody knows who holds the lock.
        LockLostError: On leaving a block without an error: the lock ended before the block did.
    """

    def __init__(
        self,
        name: str,
        ttl: Seconds,
        *,
        wait: Seconds = 0,
        client: Redis | RedisCluster | None = None,
        renew: bool = True,
        cancel_when_lost: bool = False,
        shared: bool = False,
    ) -> None:
        super().__init__(wait=wait, cancel_when_lost=cancel_when_lost)
        self._name = checked_name(name)
        self._ttl = in_seconds(ttl, "ttl", minimum=_SHORTEST_TTL_SECONDS)
        self._milliseconds = round(self._ttl * 1000)
        self._given_client = client
        self._renew = renew
        self._shared = shared
        self._valid_until = 0.0
        self._watch: Watch | None = None

    def __repr__(self) -> str:
        return f"RedisLock({self._name!r}, ttl={self._ttl:g})"

    @property
    def held(self) -> bool:
        """See `Lock.held`; false as soon as ``ttl`` has gone by without a renewal."""
        return super().held and asyncio.get_running_loop().time() < self._valid_until

    def _label(self) -> str:
        return f"The lock {self._name!r}"

    async def _acquire(self) -> bool:
        self._client = self._given_client if self._given_client is not None else _process_wide_client()
        self._keys = scripts.Keys.of(owner_of(shared=self._shared), self._name)
        self._token = secrets.token_hex(16)
        taken = await self._try()
        if taken > 0 or not self._wait:
            return self._taken(taken)
        self._granted = 0
        try:
            async with asyncio.timeout(None if math.isinf(self._wait) else self._wait):
                await self._stand_in_line()
        except BaseException as error:
            if self._granted:
                # Granted while time ran out, or while we were cancelled, on the way out of the line.
                await to_the_end(self._abandon())
            if isinstance(error, TimeoutError):
                return False
            if isinstance(error, _FAILURES):
                raise self._unavailable(error) from error
            raise
        return self._taken(self._granted)

    def _taken(self, answer: int) -> bool:
        if answer <= 0:
            return False
        self._fence = answer
        interval = self._ttl / _RENEWALS_PER_TTL if self._renew else self._ttl
        self._watch = Watch(interval, self._look_after)
        return True

    async def _stand_in_line(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait
        pause, hears = _ANSWER_SECONDS, False
        async with in_line(self._client, self._keys.freed) as wakeups:
            while loop.time() < deadline:
                try:
                    if not hears:
                        await wakeups.listen()
                        hears = True
                    # Redis announces a release, not an expiry: that is waited for by the clock.
                    await wakeups.wait(pause)
                except ResponseError:
                    raise
                except _FAILURES:
                    hears = False
                    await asyncio.sleep(random.uniform(0.02, 0.1))  # noqa: S311 - only to come apart
                answer = await self._try()
                if answer > 0:
                    self._granted = answer
                    return
                pause = -answer / 1000 + 0.001

    async def _try(self) -> int:
        """Ask once. A question whose answer is not waited for is undone, so that no lock stays without a holder."""
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(min(self._ttl, _ANSWER_SECONDS)):
                answer = await scripts.ACQUIRE.run(
                    self._client,
                    (self._keys.lock, self._keys.fence, self._keys.void(self._token)),
                    self._token,
                    self._milliseconds,
                    max(scripts.FENCE_MILLISECONDS, 2 * self._milliseconds),
                )
        except _FAILURES as error:
            await to_the_end(self._abandon())
            raise self._unavailable(error) from error
        except BaseException:
            await to_the_end(self._abandon())
            raise
        self._valid_until = began + self._ttl * (1 - _DRIFT)
        return answer

    async def _abandon(self) -> None:
        """Undo an acquisition that may have been granted, or that may still be on its way to the server."""
        try:
            async with asyncio.timeout(min(self._ttl, _ANSWER_SECONDS)):
                await scripts.ABANDON.run(
                    self._client,
                    (self._keys.lock, self._keys.fence, self._keys.void(self._token)),
                    self._token,
                    _VOID_MILLISECONDS,
                    self._keys.freed,
                )
        except _FAILURES as error:
            logger.info(
                "%s was perhaps granted and could not be given back (%s); it expires in at most %g s.",
                self._label(),
                type(error).__name__,
                self._ttl,
            )

    async def _look_after(self) -> bool:
        if not self._renew:
            self._lose(f"its {self._ttl:g} s went by")
            return False
        loop = asyncio.get_running_loop()
        while (began := loop.time()) < self._valid_until:
            try:
                async with asyncio.timeout_at(self._valid_until):
                    if not await scripts.RENEW.run(
                        self._client, (self._keys.lock,), self._token, self._milliseconds
                    ):
                        self._lose("it expired, or was deleted, and may be somebody else's by now")
                        return False
            except _FAILURES as error:
                logger.info("%s could not be renewed yet (%s).", self._label(), type(error).__name__)
                await asyncio.sleep(
                    min(self._ttl / _TRIES_PER_TTL, max(0.0, self._valid_until - loop.time()))
                )
            else:
                self._valid_until = began + self._ttl * (1 - _DRIFT)
                return True
        self._lose(f"it could not be renewed within its {self._ttl:g} s")
        return False

    async def _release(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.stop(cut_short=True)
        was_valid = asyncio.get_running_loop().time() < self._valid_until
        try:
            returned = await self._hand_back(self._fence or 0)
        except asyncio.CancelledError:
            # Twice does no harm.
            await to_the_end(self._hand_back(self._fence or 0))
            raise
        if returned is None and not was_valid:
            self._lose("it expired, and Redis does not answer whether somebody else has had it since")
        elif returned is False:
            self._lose("somebody else may have had it since it expired or was deleted")

    async def _hand_back(self, fence: int) -> bool | None:
        """Delete the lock if it is ours; False if it was not any more, None without an answer: it then expires."""
        try:
            async with asyncio.timeout(min(self._ttl, _ANSWER_SECONDS)):
                answer = await scripts.RELEASE.run(
                    self._client, (self._keys.lock, self._keys.fence), self._token, fence, self._keys.freed
                )
        except _FAILURES as error:
            logger.warning(
                "%s could not be released (%s); others get it when it expires, in at most %g s.",
                self._label(),
                type(error).__name__,
                self._ttl,
            )
            return None
        return bool(answer)

    def _unavailable(self, error: BaseException) -> LockUnavailableError:
        if isinstance(error, LockUnavailableError):
            return error
        reason = tls_refusal(error) or type(error).__name__
        return LockUnavailableError(
            f"{self._label()} was not acquired: Redis did not grant or refuse it ({reason}), so nobody "
            f"knows who holds it. Do not go on as if it were held; try again when Redis answers."
        )


def _process_wide_client() -> Redis | RedisCluster:
    from dotmac.database.caching import get_redis_client  # noqa: PLC0415 - only without a client of one's own

    return get_redis_client()
