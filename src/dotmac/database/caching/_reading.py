"""Where a value is read from: this process's memory, else Redis."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from dotmac.database.caching._codec import DamagedValueError
from dotmac.database.caching._freshness import Worth, worth
from dotmac.database.caching._memory import Memory
from dotmac.database.caching._space import MISSING

if TYPE_CHECKING:
    from dotmac.database.caching._codec import Codec
    from dotmac.database.caching._envelope import Entry
    from dotmac.database.caching._freshness import CachePolicy
    from dotmac.database.caching._link import Link
    from dotmac.database.caching._space import Space
    from dotmac.database.caching._store import Store


class Reading:
    """Reads for one cache.

    Attributes:
        has_memory: Whether the cache keeps copies.
    """

    def __init__(self, store: Store, codec: Codec, policy: CachePolicy) -> None:
        self.has_memory = policy.memory_seconds > 0
        self._store = store
        self._codec = codec
        self._policy = policy
        self._identity = object()

    def value_of(self, space: Space, entry: Entry | None, default: Any) -> Any:
        """The value of an entry that is fresh, else ``default``; counted as a hit or a miss."""
        if entry is not None and worth(entry, time.time() * 1000) is Worth.FRESH:
            try:
                value = self._codec.decode(entry.form, entry.body)
            except DamagedValueError:
                space.counters.errors += 1
            else:
                space.counters.hits += 1
                return value
        space.counters.misses += 1
        return default

    async def read(self, link: Link, space: Space, text: str) -> Entry | None:
        """The entry in Redis, of which a copy is kept if this cache keeps copies."""
        if link.debts:
            await link.settle(self._policy.timeout_seconds)
        if not self.has_memory:
            return await self._store.read(link.exchange, space.scope, text, space.counters)
        memory, copies = self._memory(link, space), link.copies(space.scope)
        changes, began = memory.changes, time.monotonic()
        may_keep = copies.served_until > began
        entry, left = await self._store.read_to_copy(link.exchange, space.scope, text, space.counters)
        if entry is not None and may_keep:
            fresh = entry.fresh_until / 1000 - time.time()
            memory.put(
                space.scope.values + text,
                entry,
                until=began + min(self._policy.memory_seconds, left, fresh),
                scope=space.scope.tag,
                changes=changes,
            )
        return entry

    def copy(self, link: Link, space: Space, text: str) -> Any:
        """The value in this process's memory, or MISSING."""
        now = time.monotonic()
        if link.copies(space.scope).served_until > now:
            memory, key = self._memory(link, space), space.scope.values + text
            entry = memory.get(key, now)
            if entry is not None:
                try:
                    value = self._codec.decode(entry.form, entry.body)
                except DamagedValueError:
                    space.counters.errors += 1
                    memory.drop([key])
                    return MISSING
                space.counters.hits += 1
                space.counters.memory_hits += 1
                return value
        return MISSING

    def last_known(self, link: Link, space: Space, text: str) -> Entry | None:
        """What was kept in memory and may be given out, stale, when nothing else is to be had."""
        if not (self.has_memory and self._policy.stale_seconds):
            return None
        return self._memory(link, space).last_known(space.scope.values + text, time.time() * 1000)

    def _memory(self, link: Link, space: Space) -> Memory:
        memory = link.memories.get(self._identity)
        if memory is None:
            memory = link.memories[self._identity] = Memory(self._policy.memory_entries)
            link.copies(space.scope).keep(memory)
        return memory
