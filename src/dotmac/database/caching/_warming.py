"""Filling a cache before it is asked: a bounded number of loads at a time, by one process for each set of keys."""

from __future__ import annotations

import asyncio
import inspect
import time
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dotmac.database.caching._cache import SmartCache


@dataclass(frozen=True, slots=True)
class WarmReport:
    """What warming did.

    Attributes:
        total: How many keys there were.
        loaded: How many were loaded and stored.
        present: How many were cached already.
        failed: How many the loader failed for.
        seconds: How long it took.
        is_leader: False if another process is warming these keys: nothing was done here.
    """

    total: int
    loaded: int = 0
    present: int = 0
    failed: int = 0
    seconds: float = 0.0
    is_leader: bool = True


@dataclass(slots=True)
class _Tally:
    loaded: int = 0
    present: int = 0
    failed: int = 0

    @property
    def done(self) -> int:
        return self.loaded + self.present + self.failed


async def warm_cache(
    cache: SmartCache,
    keys: Sequence[Any],
    loader: Callable[[Any], Awaitable[Any] | Any],
    *,
    concurrency: int,
    progress: Callable[[int, int], object] | None,
) -> WarmReport:
    """See `SmartCache.warm`."""
    began = time.monotonic()
    leadership = blake2b("\n".join(sorted(map(str, keys))).encode(), digest_size=16).hexdigest()
    token = await cache.begin("warming", leadership)
    if token is None:
        return WarmReport(len(keys), is_leader=False)
    tally, waiting = _Tally(), list(reversed(keys))

    async def work() -> None:
        while waiting:
            key = waiting.pop()
            try:
                await _warm_one(cache, key, loader, tally)
            except Exception:  # noqa: BLE001 - one key that cannot be loaded does not end the rest
                tally.failed += 1
            if progress is not None:
                progress(tally.done, len(keys))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(keys))):
                group.create_task(work())
    finally:
        await cache.release(token)
    return WarmReport(
        len(keys), tally.loaded, tally.present, tally.failed, round(time.monotonic() - began, 3)
    )


async def _warm_one(
    cache: SmartCache, key: Any, loader: Callable[[Any], Awaitable[Any] | Any], tally: _Tally
) -> None:
    was_loaded = False

    async def load() -> Any:
        nonlocal was_loaded
        was_loaded = True
        value = loader(key)
        return await value if inspect.isawaitable(value) else value

    parts = key if type(key) is tuple else (key,)
    await cache.get_or_load(*parts, load)
    if was_loaded:
        tally.loaded += 1
    else:
        tally.present += 1
