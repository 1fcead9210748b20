"""What `SmartCache` removes, and what a change takes besides telling Redis.

What is owed is paid first; copies are told after; what failed is remembered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from dotmac.database.caching._client import get_redis_client
from dotmac.database.caching._exchange import CacheUnavailableError
from dotmac.database.caching._keys import pattern_text
from dotmac.database.caching._link import linked
from dotmac.database.caching._space import text_of
from dotmac.database.context import TenantId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from redis.asyncio import Redis, RedisCluster

    from dotmac.database.caching._exchange import Exchange
    from dotmac.database.caching._freshness import CachePolicy
    from dotmac.database.caching._link import Link, LinkedServer
    from dotmac.database.caching._space import Key, Space, Spaces
    from dotmac.database.caching._store import Store


class Removing:
    """A namespace in Redis, a space of its own for each tenant, from which values are removed."""

    def __init__(
        self, spaces: Spaces, store: Store, policy: CachePolicy, client: Redis | RedisCluster | None
    ) -> None:
        self.policy = policy
        self._spaces = spaces
        self._store = store
        self._client = client
        self._server: LinkedServer | None = None
        self._tenant: str | None = None
        self._is_bound = False

    def for_tenant(self, tenant_id: object) -> Self:
        """The same cache, bound to one tenant whatever the context says."""
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound._tenant, bound._is_bound = TenantId(tenant_id), True
        return bound

    async def delete(self, *key: Any) -> bool:
        """Remove a value; True if there was one. What is being loaded under that key is not stored.

        When Redis is away it is removed as soon as Redis is back, before this process reads anything from it.
        """
        return bool(await self.delete_many([key]))

    async def delete_many(self, keys: Iterable[Key]) -> int:
        """Same as `delete`, for many keys in one round trip for each 500; how many there were."""
        space = self._space()
        texts = [text_of(key) for key in keys]
        if not texts:
            return 0
        gone = await self._change(
            space, texts, lambda exchange: self._store.delete(exchange, space.scope, texts)
        )
        if gone is None:
            return 0
        space.counters.deletes += gone
        return gone

    async def invalidate_pattern(self, pattern: str) -> int:
        r"""Remove every value whose key matches, ``"user:*"`` for instance; how many there were.

        ``*``, ``?`` and ``[abc]`` are globs, ``\*`` is a star. Only the current tenant's keys are looked at, in batches that
        hold nobody up: the time grows with the number of keys in Redis. `invalidate_namespace` and `invalidate_tags` do not.
        """
        space, glob = self._space(), pattern_text(pattern)
        gone = await self._change(
            space,
            None,
            lambda exchange: self._store.invalidate_matching(exchange, space.scope, glob),
        )
        if gone is None:
            return 0
        space.counters.deletes += gone
        space.counters.invalidations += 1
        return gone

    async def invalidate_namespace(self) -> None:
        """Make every entry of the cache invalid, for the current tenant: one round trip, however many there are."""
        space = self._space()
        await self._change(space, None, lambda exchange: self._store.invalidate_scope(exchange, space.scope))
        space.counters.invalidations += 1

    async def invalidate_tags(self, *tags: str) -> None:
        """Make every entry that bears one of the tags invalid: one round trip, however many there are."""
        if not tags:
            raise TypeError("invalidate_tags() takes at least one tag.")
        space = self._space()
        await self._change(
            space,
            None,
            lambda exchange: self._store.invalidate_tags(exchange, space.scope, tags),
        )
        space.counters.invalidations += 1

    async def purge(self) -> int:
        """Remove everything of the current tenant (or of the shared space) from Redis; how many values there were."""
        space = self._space()
        gone = await self._change(space, None, lambda exchange: self._store.purge(exchange, space.scope))
        return gone or 0

    async def _change(
        self,
        space: Space,
        texts: Sequence[str] | None,
        work: Callable[[Exchange], Awaitable[tuple[int, int]]],
    ) -> int | None:
        """Do ``work``, which returns a number and the mark for copies; the number, or None if Redis could not be told."""
        link = self._link()
        try:
            if link.debts:
                await link.settle(self.policy.timeout_seconds)
            number, mark = await work(link.exchange)
            await self._announce(link, space, texts, mark)
        except CacheUnavailableError:
            self._failed(link, space, texts)
            return None
        return number

    def _failed(self, link: Link, space: Space, texts: Sequence[str] | None) -> None:
        """Redis could not be told: count it, and tell it later."""
        space.counters.errors += 1
        link.copies(space.scope).drop(space.full_keys(texts), space.scope.tag)
        link.owe(space.scope, texts)

    async def _announce(self, link: Link, space: Space, texts: Sequence[str] | None, mark: int) -> None:
        """Return when no copy of what was changed is served any more; with ``mark``, anywhere."""
        await link.copies(space.scope).changed(space.full_keys(texts), space.scope.tag, mark)

    def _space(self) -> Space:
        return self._spaces[self._tenant] if self._is_bound else self._spaces.current()

    def _link(self) -> Link:
        if self._server is None:
            self._server = linked(self._client or get_redis_client())
        return self._server.link()
