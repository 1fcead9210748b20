"""`SmartCache`: one namespace of values in Redis, a space of its own for each tenant."""

from __future__ import annotations

import functools
import inspect
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, Self, TypeVar

from dotmac.database.caching._client import get_redis_client
from dotmac.database.caching._codec import Codec, DamagedValueError
from dotmac.database.caching._envelope import Envelope
from dotmac.database.caching._exchange import CacheUnavailableError
from dotmac.database.caching._freshness import CachePolicy, Duration, Worth, lifetime, seconds_of, worth
from dotmac.database.caching._keys import Scope, arguments_key, key_text, pattern_text
from dotmac.database.caching._link import LinkedServer, linked
from dotmac.database.caching._loading import Loading, Request
from dotmac.database.caching._memory import Memory
from dotmac.database.caching._models import Models
from dotmac.database.caching._statistics import Counters
from dotmac.database.caching._store import Store
from dotmac.database.caching._warming import WarmReport, warm_cache
from dotmac.database.context import TenantId, current_context
from dotmac.database.errors import MissingTenantError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from redis.asyncio import Redis, RedisCluster

    from dotmac.database.caching._envelope import Entry
    from dotmac.database.caching._link import Link

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Tenancy = Literal["context", "required", "shared"]
Key = str | tuple[Any, ...]
"""A key given as one value: a path such as ``"user:42"``, or a tuple of its parts."""


class Missing:
    """The type of `MISSING`."""

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> Literal[False]:
        return False


MISSING: Final = Missing()
"""Given as ``default``, tells a value that is not cached from a cached None."""


@dataclass(frozen=True, slots=True)
class LoadToken:
    """The right to store what is loaded from now on, unless it is invalidated meanwhile.

    Attributes:
        scope: Where the value belongs.
        text: Its key.
        token: Who holds the lease.
        version: The generation in which the load began.
    """

    scope: Scope
    text: str
    token: str
    version: bytes


class _Space:
    """One tenant's part of a cache."""

    __slots__ = ("counters", "published", "scope")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.counters = Counters()
        self.published = Counters()

    def take_news(self) -> dict[str, int]:
        """What was counted since the last time this was asked."""
        news = self.counters.since(self.published)
        self.published.add(news)
        return news

    def untake(self, news: dict[str, int]) -> None:
        """It could not be told to anybody: it is news again."""
        self.published.add({name: -count for name, count in news.items()})


class SmartCache:
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
        if tenancy not in ("context", "required", "shared"):
            raise ValueError(f"tenancy is 'context', 'required' or 'shared', not {tenancy!r}.")
        self.namespace = namespace
        self.ttl = seconds_of(ttl, "ttl")
        self.policy = policy or CachePolicy()
        known = Models(models)
        key = signing_key.encode() if isinstance(signing_key, str) else signing_key
        if key is not None and not key:
            raise ValueError("signing_key must not be empty.")
        envelope = Envelope(str(schema), known.shape(), key)
        self._made_with = {"schema": schema, "signing_key": key, "client": client, "prefix": prefix}
        self._codec = Codec(known)
        self._store = Store(envelope, self.policy)
        self._loading = Loading(self._store, envelope, self._codec, self.policy)
        self._tenancy = tenancy
        self._tenant: str | None = None
        self._is_bound = False
        self._has_memory = self.policy.memory_seconds > 0
        self._identity = object()
        self._prefix = prefix
        self._client = client
        self._server: LinkedServer | None = None
        self._spaces: dict[str | None, _Space] = {None: _Space(Scope.of(prefix, namespace, None))}

    @property
    def made_with(self) -> Mapping[str, Any]:
        """Schema, signing key, client and prefix: for caches that are to share them."""
        return self._made_with

    def __repr__(self) -> str:
        bound = f", tenant={self._tenant!r}" if self._is_bound else ""
        return f"SmartCache({self.namespace!r}, ttl={self.ttl:g}{bound})"

    def for_tenant(self, tenant_id: object) -> Self:
        """The same cache, bound to one tenant whatever the context says."""
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound._tenant, bound._is_bound = TenantId(tenant_id), True
        return bound

    async def get(self, *key: Any, default: Any = None) -> Any:
        """The value, or ``default`` if there is none that is fresh. One round trip.

        Raises:
            ValidationError: The key is empty or cannot be a key.
            MissingTenantError: The cache requires a tenant and none is bound.
        """
        space, text, link = self._space(), key_text(key), self._link()
        if self._has_memory and (copy := self._copy(link, space, text)) is not MISSING:
            return copy
        try:
            entry = await self._read(link, space, text)
        except CacheUnavailableError:
            space.counters.errors += 1
            entry = None
        return self._fresh(space, entry, default)

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
            if mark or self._has_memory:
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
        if self._has_memory and (copy := self._copy(link, space, text)) is not MISSING:
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
                read=lambda: self._read(link, space, text),
                last_known=lambda: self._last_known(link, space, text),
            ),
        )

    async def get_many(self, keys: Iterable[Key]) -> dict[Any, Any]:
        """The values that are cached and fresh, by the keys as they were given. One round trip."""
        space = self._space()
        given = list(keys)
        texts = [_text_of(key) for key in given]
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
            value = self._fresh(space, entry, MISSING)
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
            (_text_of(key), *self._codec.encode(value), lifetime(self.policy, seconds))
            for key, value in values.items()
        ]
        if not entries:
            return True
        link = self._link()
        try:
            if link.debts:
                await link.settle(self.policy.timeout_seconds)
            mark = await self._store.write_many(link.exchange, space.scope, entries)
            await self._announce(link, space, [text for text, *_ in entries], mark)
        except CacheUnavailableError:
            self._failed(link, space, [text for text, *_ in entries])
            return False
        space.counters.writes += len(entries)
        return True

    async def delete(self, *key: Any) -> bool:
        """Remove a value; True if there was one. What is being loaded under that key is not stored.

        When Redis is away it is removed as soon as Redis is back, before this process reads anything from it.
        """
        return bool(await self.delete_many([key]))

    async def delete_many(self, keys: Iterable[Key]) -> int:
        """Same as `delete`, for many keys in one round trip for each 500; how many there were."""
        space = self._space()
        texts = [_text_of(key) for key in keys]
        if not texts:
            return 0
        link = self._link()
        try:
            if link.debts:
                await link.settle(self.policy.timeout_seconds)
            gone, mark = await self._store.delete(link.exchange, space.scope, texts)
            await self._announce(link, space, texts, mark)
        except CacheUnavailableError:
            self._failed(link, space, texts)
            return 0
        space.counters.deletes += gone
        return gone

    async def invalidate_pattern(self, pattern: str) -> int:
        r"""Remove every value whose key matches, ``"user:*"`` for instance; how many there were.

        ``*``, ``?`` and ``[abc]`` are globs, ``\*`` is a star. Only the current tenant's keys are looked at, in batches that
        hold nobody up: the time grows with the number of keys in Redis. `invalidate_namespace` and `invalidate_tags` do not.
        """
        space, glob = self._space(), pattern_text(pattern)
        link = self._link()
        try:
            if link.debts:
                await link.settle(self.policy.timeout_seconds)
            gone, mark = await self._store.invalidate_matching(link.exchange, space.scope, glob)
            await self._announce(link, space, None, mark)
        except CacheUnavailableError:
            self._failed(link, space, None)
            return 0
        space.counters.deletes += gone
        space.counters.invalidations += 1
        return gone

    async def invalidate_namespace(self) -> None:
        """Make every entry of the cache invalid, for the current tenant: one round trip, however many there are."""
        space, link = self._space(), self._link()
        try:
            if link.debts:
                await link.settle(self.policy.timeout_seconds)
            mark = await self._store.invalidate_scope(link.exchange, space.scope)
            await self._announce(link, space, None, mark)
        except CacheUnavailableError:
            self._failed(link, space, None)
        space.counters.invalidations += 1

    async def invalidate_tags(self, *tags: str) -> None:
        """Make every entry that bears one of the tags invalid: one round trip, however many there are."""
        if not tags:
            raise TypeError("invalidate_tags() takes at least one tag.")
        space, link = self._space(), self._link()
        try:
            if link.debts:
                await link.settle(self.policy.timeout_seconds)
            mark = await self._store.invalidate_tags(link.exchange, space.scope, tags)
            await self._announce(link, space, None, mark)
        except CacheUnavailableError:
            self._failed(link, space, None)
        space.counters.invalidations += 1

    async def purge(self) -> int:
        """Remove everything of the current tenant (or of the shared space) from Redis; how many values there were."""
        space, link = self._space(), self._link()
        try:
            if link.debts:
                await link.settle(self.policy.timeout_seconds)
            gone, mark = await self._store.purge(link.exchange, space.scope)
            await self._announce(link, space, None, mark)
        except CacheUnavailableError:
            self._failed(link, space, None)
            return 0
        return gone

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
        space = self._space_of(token.scope.tenant)
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
            self._space_of(token.scope.tenant).counters.errors += 1

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

        def decorate(
            function: Callable[Parameters, Awaitable[Result]],
        ) -> Callable[Parameters, Awaitable[Result]]:
            if not inspect.iscoroutinefunction(function):
                raise TypeError("cached() decorates async functions.")
            signature = inspect.signature(function)
            first = prefix or (function.__qualname__,)

            @functools.wraps(function)
            async def through(*arguments: Parameters.args, **keywords: Parameters.kwargs) -> Result:
                if key is None:
                    bound = signature.bind(*arguments, **keywords)
                    bound.apply_defaults()
                    rest = arguments_key(bound.args, bound.kwargs)
                else:
                    rest = key(*arguments, **keywords)
                load = functools.partial(function, *arguments, **keywords)
                result: Result = await self.get_or_load(*first, *rest, load, ttl=ttl, tags=tags)
                return result

            return through

        return decorate

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

    def _last_known(self, link: Link, space: _Space, text: str) -> Entry | None:
        if not (self._has_memory and self.policy.stale_seconds):
            return None
        return self._memory(link).last_known(space.scope.values + text, time.time() * 1000)

    async def _read(self, link: Link, space: _Space, text: str) -> Entry | None:
        """The entry in Redis, of which a copy is kept if this cache keeps copies."""
        if link.debts:
            await link.settle(self.policy.timeout_seconds)
        if not self._has_memory:
            return await self._store.read(link.exchange, space.scope, text, space.counters)
        memory, copies = self._memory(link), link.copies(space.scope)
        changes, began = memory.changes, time.monotonic()
        may_keep = copies.served_until > began
        entry, left = await self._store.read_to_copy(link.exchange, space.scope, text, space.counters)
        if entry is not None and may_keep:
            fresh = entry.fresh_until / 1000 - time.time()
            memory.put(
                space.scope.values + text,
                entry,
                until=began + min(self.policy.memory_seconds, left, fresh),
                scope=space.scope.tag,
                changes=changes,
            )
        return entry

    def _copy(self, link: Link, space: _Space, text: str) -> Any:
        """The value in this process's memory, or MISSING."""
        now = time.monotonic()
        if link.copies(space.scope).served_until > now:
            memory, key = self._memory(link), space.scope.values + text
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

    def _memory(self, link: Link) -> Memory:
        memory = link.memories.get(self._identity)
        if memory is None:
            memory = link.memories[self._identity] = Memory(self.policy.memory_entries)
            link.copies(self._spaces[None].scope).keep(memory)
        return memory

    def _fresh(self, space: _Space, entry: Entry | None, default: Any) -> Any:
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

    def _failed(self, link: Link, space: _Space, texts: Sequence[str] | None) -> None:
        """Redis could not be told: count it, and tell it later."""
        space.counters.errors += 1
        link.copies(space.scope).drop(_keys_of(space, texts), space.scope.tag)
        link.owe(space.scope, texts)

    async def _announce(self, link: Link, space: _Space, texts: Sequence[str] | None, mark: int) -> None:
        """Return when no copy of what was changed is served any more; with ``mark``, anywhere."""
        await link.copies(space.scope).changed(_keys_of(space, texts), space.scope.tag, mark)

    def _space(self) -> _Space:
        if self._is_bound:
            return self._space_of(self._tenant)
        if self._tenancy == "shared":
            return self._spaces[None]
        tenant = current_context().tenant_id
        if tenant is None and self._tenancy == "required":
            raise MissingTenantError(f"The cache {self.namespace!r}")
        space = self._spaces.get(tenant)
        return self._space_of(tenant) if space is None else space

    def _space_of(self, tenant: str | None) -> _Space:
        space = self._spaces.get(tenant)
        if space is None:
            space = self._spaces[tenant] = _Space(self._scope_of(self.namespace, tenant))
        return space

    def _scope_of(self, namespace: str, tenant: str | None) -> Scope:
        return Scope.of(self._prefix, namespace, tenant)

    def _link(self) -> Link:
        if self._server is None:
            self._server = linked(self._client or get_redis_client())
        return self._server.link()


def _keys_of(space: _Space, texts: Sequence[str] | None) -> list[str] | None:
    return None if texts is None else [space.scope.values + text for text in texts]


def _text_of(key: Key) -> str:
    return key_text(key if type(key) is tuple else (key,))
