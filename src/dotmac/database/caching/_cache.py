"""`SmartCache`: one namespace of values in Redis, a space of its own for each tenant."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from dotmac.database.caching._codec import Codec
from dotmac.database.caching._decorator import read_through
from dotmac.database.caching._envelope import Envelope
from dotmac.database.caching._exchange import CacheUnavailableError
from dotmac.database.caching._freshness import CachePolicy, Duration, lifetime, seconds_of
from dotmac.database.caching._keys import key_text
from dotmac.database.caching._loading import Loading, Request
from dotmac.database.caching._models import Models
from dotmac.database.caching._reading import Reading
from dotmac.database.caching._removing import Removing
from dotmac.database.caching._space import MISSING, LoadToken, Spaces, text_of
from dotmac.database.caching._store import Store
from dotmac.database.caching._warming import WarmReport, warm_cache

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from redis.asyncio import Redis, RedisCluster

    from dotmac.database.caching._decorator import Parameters, Result
    from dotmac.database.caching._space import Key, Tenancy


class SmartCache(Removing):
    """A namespace of values in Redis. It fails open: when Redis is away, everything is a miss and nothing raises.

    May be made at import time and used from any event loop. Keys are given in parts, ``get("user", user_id)``, or as a path,
    ``get("user:42")``.

    Args:
        namespace: Names the cache; caches of the same name share their entries, in every process.
        ttl: Time to live, in seconds or as a timedelta.
        policy: Everything else about the life of entries; see `CachePolicy`.
        tenancy: ``"context"``: the tenant of the current `RequestContext` has a space of its own, and so has work without a
            tenant. ``"required"``: without a tenant it raises. ``"shared"``: one space for all tenants, on purpose.
        models: Classes whose instances are stored and come back as such: pydantic, SQLModel, SQLAlchemy, dataclass, Enum.
        schema: Version of what is stored; entries of another one are misses. Changes of ``models`` count by themselves.
        signing_key: Signs entries, so that nobody who can write to Redis can forge one.
        client: The Redis to use; default: `get_redis_client`.
        prefix: What every key in Redis begins with.

    Example:
        >>> users = SmartCache("users", ttl=300)
        >>> async def name_of(user_id: int) -> str:
        ...     return await users.get_or_load("user", user_id, lambda: f"user {user_id}")

    Raises:
        ValidationError: The namespace or prefix is empty.
        ValueError: A time or number is out of its range.
    """

    def __init__(
        self,
        namespace: str,
        ttl: Duration = 300,
        policy: CachePolicy | None = None,
        *,
        tenancy: Tenancy = "context",
        models: Iterable[type[Any]] = (),
        schema: str | int = "",
        signing_key: str | bytes | None = None,
        client: Redis | RedisCluster | None = None,
        prefix: str = "dotmac",
    ) -> None:
        spaces = Spaces(prefix, namespace, tenancy)
        policy = policy or CachePolicy()
        known = Models(models)
        key = signing_key.encode() if isinstance(signing_key, str) else signing_key
        if key is not None and not key:
            raise ValueError("signing_key must not be empty.")
        envelope = Envelope(str(schema), known.shape(), key)
        super().__init__(spaces, Store(envelope, policy), policy, client)
        self.namespace = namespace
        self.ttl = seconds_of(ttl, "ttl")
        self._made_with = {"schema": schema, "signing_key": key, "client": client, "prefix": prefix}
        self._codec = Codec(known)
        self._reading = Reading(self._store, self._codec, self.policy)
        self._loading = Loading(self._store, envelope, self._codec, self.policy)

    @property
    def made_with(self) -> Mapping[str, Any]:
        """Schema, signing key, client and prefix: for caches that are to share them."""
        return self._made_with

    def __repr__(self) -> str:
        bound = f", tenant={self._tenant!r}" if self._is_bound else ""
        return f"SmartCache({self.namespace!r}, ttl={self.ttl:g}{bound})"

    async def get(self, *key: Any, default: Any = None) -> Any:
        """The value, or ``default`` if there is none that is fresh. One round trip.

        Raises:
            ValidationError: The key is empty or cannot be a key.
            MissingTenantError: The cache requires a tenant and none is bound.
        """
        space, text, link = self._space(), key_text(key), self._link()
        if self._reading.has_memory and (copy := self._reading.copy(link, space, text)) is not MISSING:
            return copy
        try:
            entry = await self._reading.read(link, space, text)
        except CacheUnavailableError:
            space.counters.errors += 1
            entry = None
        return self._reading.value_of(space, entry, default)

    async def set(self, *key_and_value: Any, ttl: Duration | None = None, tags: Sequence[str] = ()) -> bool:
        """Store a value: ``set("user", user_id, value)``. One round trip; False if Redis did not take it.

        Args:
            key_and_value: The parts of the key, then the value.
            ttl: Time to live, if not the cache's.
            tags: `invalidate_tags` with one of these makes it invalid.

        Raises:
            ValidationError: The value cannot be stored, or the key is empty.
            MissingTenantError: The cache requires a tenant and none is bound.
        """
        if len(key_and_value) < 2:  # noqa: PLR2004 - a key and a value
            raise TypeError("set() takes the parts of a key and then a value: set('user', user_id, value).")
        *parts, value = key_and_value
        space, text = self._space(), key_text(tuple(parts))
        form, body = self._codec.encode(value)
        life = lifetime(self.policy, self.ttl if ttl is None else seconds_of(ttl, "ttl"))
        link = self._link()
        try:
            if link.debts:
                await link.settle(self.policy.timeout_seconds)
            mark = await self._store.write(link.exchange, space.scope, text, form, body, life, tuple(tags))
            if mark or self._reading.has_memory:
                await self._announce(link, space, [text], mark)
        except CacheUnavailableError:
            # What was there before must not come back with Redis.
            self._failed(link, space, [text])
            return False
        space.counters.writes += 1
        return True

    async def get_or_load(
        self, *key_and_loader: Any, ttl: Duration | None = None, tags: Sequence[str] = ()
    ) -> Any:
        """The value; if there is none, what the loader brings, which is stored.

        ``get_or_load("user", user_id, loader)``: the loader takes no argument and may be async. It runs once for all who
        ask at the same time, in all processes; so give it what it needs itself, a session of its own for instance.

        Raises:
            TimeoutError: The loader took longer than the policy's ``hard_timeout``, and there is no stale value.
            ValidationError: What it brought cannot be stored.
            Exception: Whatever the loader raises, if there is no stale value.
        """
        if len(key_and_loader) < 2 or not callable(key_and_loader[-1]):  # noqa: PLR2004 - a key and a loader
            raise TypeError(
                "get_or_load() takes the parts of a key and then a function: get_or_load('user', 1, load)."
            )
        *parts, loader = key_and_loader
        space, text = self._space(), key_text(tuple(parts))
        seconds = self.ttl if ttl is None else seconds_of(ttl, "ttl")
        link = self._link()
        if self._reading.has_memory and (copy := self._reading.copy(link, space, text)) is not MISSING:
            return copy
        return await self._loading.get(
            link,
            Request(
                space.scope,
                text,
                loader,
                seconds,
                tuple(tags),
                space.counters,
                read=lambda: self._reading.read(link, space, text),
                last_known=lambda: self._reading.last_known(link, space, text),
            ),
        )

    async def get_many(self, keys: Iterable[Key]) -> dict[Any, Any]:
        """The values that are cached and fresh, by the keys as they were given. One round trip."""
        space = self._space()
        given = list(keys)
        texts = [text_of(key) for key in given]
        if not texts:
            return {}
        link = self._link()
        try:
            if link.debts:
                await link.settle(self.policy.timeout_seconds)
            entries = await self._store.read_many(link.exchange, space.scope, texts, space.counters)
        except CacheUnavailableError:
            space.counters.errors += 1
            entries = [None] * len(texts)
        found = {}
        for key, entry in zip(given, entries, strict=True):
            value = self._reading.value_of(space, entry, MISSING)
            if value is not MISSING:
                found[key] = value
        return found

    async def set_many(self, values: Mapping[Any, Any], ttl: Duration | None = None) -> bool:
        """Store values by key, a path or a tuple each. One round trip for each 500; False if Redis did not take them all.

        Raises:
            ValidationError: A value cannot be stored, or a key is empty; nothing is stored then.
        """
        space = self._space()
        seconds = self.ttl if ttl is None else seconds_of(ttl, "ttl")
        entries = [
            (text_of(key), *self._codec.encode(value), lifetime(self.policy, seconds))
            for key, value in values.items()
        ]
        if not entries:
            return True
        stored = await self._change(
            space,
            [text for text, *_ in entries],
            lambda exchange: self._store.write_many(exchange, space.scope, entries),
        )
        if stored is None:
            return False
        space.counters.writes += len(entries)
        return True

    async def begin(self, *key: Any) -> LoadToken | None:
        """Take the lease of a key, before its value is read from the database; None if another has it.

        With it, `fill` stores the value unless the key, its tags or its namespace were invalidated since; so begin before
        the statement runs (and, under REPEATABLE READ, before the transaction). Without it, do not store: the one who has
        the lease does. A lease that is neither filled nor released ends by itself after ``lease_seconds``.
        """
        space, text = self._space(), key_text(key)
        link, token = self._link(), uuid.uuid4().hex
        try:
            if link.debts:
                await link.settle(self.policy.timeout_seconds)
            # Whatever is there now is replaced by what is loaded from now on.
            begun = await self._store.begin_anew(
                link.exchange, space.scope, text, token, self.policy.lease_seconds
            )
            if begun.mark:
                await link.copies(space.scope).changed(None, space.scope.tag, begun.mark)
        except CacheUnavailableError:
            space.counters.errors += 1
            return None
        return None if begun.version is None else LoadToken(space.scope, text, token, begun.version)

    async def fill(
        self, token: LoadToken, value: Any, *, ttl: Duration | None = None, tags: Sequence[str] = ()
    ) -> bool:
        """Store what was loaded under ``token``; False if it was refused, because it was invalidated meanwhile.

        Raises:
            ValidationError: The value cannot be stored.
        """
        space = self._spaces[token.scope.tenant]
        form, body = self._codec.encode(value)
        life = lifetime(self.policy, self.ttl if ttl is None else seconds_of(ttl, "ttl"))
        try:
            stored = await self._store.fill(
                self._link().exchange,
                token.scope,
                token.text,
                token.token,
                token.version,
                form,
                body,
                life,
                tuple(tags),
            )
        except CacheUnavailableError:
            space.counters.errors += 1
            return False
        if stored:
            space.counters.writes += 1
        else:
            space.counters.refused += 1
        return stored

    async def release(self, token: LoadToken) -> None:
        """Give a lease back without a value, for instance because loading failed."""
        try:
            await self._store.release(self._link().exchange, token.scope, token.text, token.token)
        except CacheUnavailableError:
            self._spaces[token.scope.tenant].counters.errors += 1

    def cached(
        self,
        *prefix: Any,
        key: Callable[..., tuple[Any, ...]] | None = None,
        ttl: Duration | None = None,
        tags: Sequence[str] = (),
    ) -> Callable[[Callable[Parameters, Awaitable[Result]]], Callable[Parameters, Awaitable[Result]]]:
        """Decorate an async function: its results are read through the cache.

        ``@cache.cached("user")`` keys by the arguments and their types: ``delete("user", 42)`` removes what ``user(42)`` loaded,
        ``user("42")`` is another entry. ``key=lambda user_id, **_: (user_id,)`` keys by what it returns, as `get` would.
        Without a prefix, the function's name is it. ``None`` is a result like any other.

        Raises:
            TypeError: The function is not async.
        """
        return read_through(self, prefix, key=key, ttl=ttl, tags=tags)

    async def warm(
        self,
        keys: Sequence[Key],
        loader: Callable[[Any], Awaitable[Any] | Any],
        *,
        concurrency: int = 8,
        progress: Callable[[int, int], object] | None = None,
    ) -> WarmReport:
        """Load what is not cached yet of ``keys``; ``loader`` is given a key as it stands there.

        Of several processes that warm the same keys, one does it. Times to live differ by the policy's jitter, so that the
        values do not end together.

        Args:
            keys: Paths or tuples.
            loader: Brings the value of a key; may be async.
            concurrency: How many loads run at a time.
            progress: Called with how many keys are done and how many there are.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency!r}.")
        return await warm_cache(self, list(keys), loader, concurrency=concurrency, progress=progress)

    async def get_stats(self) -> dict[str, float]:
        """What this process counted for the current tenant: `Counters` by name, and ``hit_rate`` from 0.0 to 1.0."""
        await self._publish_counts()
        return self._space().counters.as_mapping()

    async def _publish_counts(self) -> None:
        """Add what was counted since the last time to the sums that ``dotmac-db cache stats`` shows."""
        link = self._link()
        for space in list(self._spaces.values()):
            news = space.take_news()
            if not news:
                continue
            try:
                await self._store.add_counts(link.exchange, space.scope, news)
            except CacheUnavailableError:
                space.untake(news)
