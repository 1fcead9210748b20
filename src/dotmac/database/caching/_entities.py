"""`EntityCache`: rows of one model in Redis, removed by whatever changes them."""

from __future__ import annotations

import logging
import threading
import uuid
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import Column, Table
from sqlalchemy.ext.mutable import MutableBase
from sqlalchemy.types import Integer, LargeBinary, String, TypeDecorator

from dotmac.database.caching._client import get_redis_client
from dotmac.database.caching._codec import Codec, DamagedValueError
from dotmac.database.caching._entity_sql import Reach
from dotmac.database.caching._entity_store import CHANGE_SECONDS, EntityStore
from dotmac.database.caching._envelope import Envelope
from dotmac.database.caching._exchange import CacheUnavailableError
from dotmac.database.caching._freshness import CachePolicy, Duration, lifetime, seconds_of
from dotmac.database.caching._keys import Scope, key_text
from dotmac.database.caching._link import linked
from dotmac.database.caching._models import Models
from dotmac.database.caching._statistics import Counters
from dotmac.database.errors import ValidationError
from dotmac.database.models import describe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis.asyncio import Redis, RedisCluster
    from sqlalchemy import Dialect
    from sqlalchemy.orm import Mapper

    from dotmac.database.caching._cache import SmartCache
    from dotmac.database.caching._exchange import Exchange
    from dotmac.database.caching._link import Link, LinkedServer
    from dotmac.database.models import ModelShape

_logger = logging.getLogger("dotmac.database.caching")
_KEY_TYPES = (str, int, UUID, date)
_NOBODY = "-"
_lock = threading.Lock()
_known: dict[tuple[Any, ...], EntityCache] = {}


@dataclass(frozen=True, slots=True)
class RowToken:
    """The right to store a row that is read from now on.

    Attributes:
        text: Its key.
        token: Who holds the lease.
        version: The generation in which the read began.
    """

    text: str
    token: str
    version: bytes


class EntityCache:
    """The rows of one model in Redis, for repositories that are given it as ``cache``.

    Make it at import time, beside the model: from then on every session of this process that changes such rows removes
    them from the cache, whether it knows of the cache or not. A process that never makes it removes nothing.

    Args:
        model: The mapped class: one table, no inheritance, no relationship that loads eagerly.
        ttl: Time to live, in seconds or as a timedelta: the longest that a change can stay unseen that Redis was never
            told of.
        policy: See `CachePolicy`; nothing is kept in memory, and nothing stale is served.
        namespace: Caches of one model and namespace share their rows; one for each database.
        schema: Version of what is stored.
        signing_key: Signs entries.
        client: The Redis to use; default: `get_redis_client`.
        prefix: What every key in Redis begins with.

    Raises:
        TypeError: The model cannot be cached; the message says why.
    """

    def __init__(
        self,
        model: type[Any],
        ttl: Duration = 300,
        policy: CachePolicy | None = None,
        *,
        namespace: str = "entities",
        schema: str | int = "",
        signing_key: str | bytes | None = None,
        client: Redis | RedisCluster | None = None,
        prefix: str = "dotmac",
    ) -> None:
        self.shape: ModelShape = describe(model)
        self.model = model
        self._columns = _cacheable_columns(self.shape)
        self.ttl = seconds_of(ttl, "ttl")
        self.policy = replace(policy or CachePolicy(), memory_seconds=0.0, stale_seconds=0.0)
        self.reach = Reach(self.shape.table)
        self._identity_positions = tuple(
            self.shape.identity_names.index(name) for name in self.shape.key_names
        )
        models = Models([model])
        key = signing_key.encode() if isinstance(signing_key, str) else signing_key
        self._codec = Codec(models)
        self._envelope = Envelope(f"row {schema}", models.shape(), key)
        self._store = EntityStore(self._envelope, self.policy)
        self._scope = Scope.of(prefix, f"{namespace}.{self.shape.table.fullname}", None)
        self._client = client
        self._counters = Counters()
        _register(self, (prefix, namespace, id(client) if client is not None else None, model))

    def __repr__(self) -> str:
        return f"EntityCache({self.shape.name}, ttl={self.ttl:g})"

    @classmethod
    def of(cls, cache: SmartCache | EntityCache, model: type[Any]) -> EntityCache:
        """The cache of rows of ``model`` with the options of ``cache``; the same one whenever it is asked for.

        Raises:
            TypeError: ``cache`` is an `EntityCache` of another model, or the model cannot be cached.
        """
        if isinstance(cache, EntityCache):
            if cache.model is not model:
                raise TypeError(
                    f"This EntityCache is for {cache.model.__name__}: a repository of {model.__name__} needs its own."
                )
            return cache
        options = cache.made_with
        client = options["client"]
        key = (options["prefix"], cache.namespace, id(client) if client is not None else None, model)
        return _known.get(key) or cls(model, cache.ttl, cache.policy, namespace=cache.namespace, **options)

    def get_stats(self) -> dict[str, float]:
        """What this process counted; see `Counters`."""
        return self._counters.as_mapping()

    async def invalidate(self) -> None:
        """Remove all rows, of all tenants: after a change that no session of this process made."""
        await self.settle(None, uuid.uuid4().hex)

    # What follows serves repositories and sessions.

    @property
    def server(self) -> LinkedServer:
        """The Redis it uses."""
        return linked(self._client or get_redis_client())

    @property
    def client(self) -> Redis | RedisCluster | None:
        """The client it was given."""
        return self._client

    @property
    def scope(self) -> Scope:
        """Where its rows are kept."""
        return self._scope

    def row_text(self, tenant: str | None, key: Sequence[Any]) -> str | None:
        """The key of a row; None for one that cannot be told from another for certain."""
        if not all(isinstance(part, _KEY_TYPES) and not isinstance(part, bool) for part in key):
            return None
        try:
            return key_text(("row", f"={tenant}" if tenant is not None else _NOBODY, *key))
        except ValidationError:  # an empty part
            return None

    def text_of_state(self, state: Any) -> str | None:
        """The key of the row behind an entity's state; None where it is not known."""
        identity = state.key[1]
        key = [identity[position] for position in self._identity_positions]
        if self.shape.tenant is None:
            return self.row_text(None, key)
        name = self.shape.tenant.key
        if name in self.shape.identity_names:
            tenant = identity[self.shape.identity_names.index(name)]
        elif name in state.committed_state or name not in state.dict:
            return None  # it is being changed, or is not loaded
        else:
            tenant = state.dict[name]
        return None if tenant is None else self.row_text(str(tenant), key)

    async def get(self, text: str) -> dict[str, Any] | None:
        """The columns of a row, undecrypted; None on a miss."""
        link, counters = self._link(), self._counters
        try:
            if link.debts:
                await link.settle(self.policy.timeout_seconds)
            _, entry = await self._store.read_row(link.exchange, self._scope, text, counters)
        except CacheUnavailableError:
            counters.errors += 1
            return None
        if entry is None:
            counters.misses += 1
            return None
        try:
            stored: dict[str, Any] = self._codec.decode(entry.form, entry.body)
        except DamagedValueError:
            counters.errors += 1
            return None
        counters.hits += 1
        return stored

    async def begin(self, text: str) -> RowToken | None:
        """The right to store the row, taken before it is read; None if it is not to be stored."""
        link, token = self._link(), uuid.uuid4().hex
        try:
            if link.debts:
                await link.settle(self.policy.timeout_seconds)
            version = await self._store.begin_row(
                link.exchange, self._scope, text, token, self.policy.lease_seconds
            )
        except CacheUnavailableError:
            self._counters.errors += 1
            return None
        return None if version is None else RowToken(text, token, version)

    async def fill(self, token: RowToken, values: Mapping[str, Any]) -> None:
        """Store a row, unless it was changed since ``token`` was taken; what cannot be stored is not."""
        try:
            form, body = self._codec.encode(dict(values))
        except ValidationError:
            await self.release(token)
            return
        life = lifetime(self.policy, self.ttl)
        try:
            stored = await self._store.fill(
                self._link().exchange, self._scope, token.text, token.token, token.version, form, body, life
            )
        except CacheUnavailableError:
            self._counters.errors += 1
            return
        if stored:
            self._counters.writes += 1
        else:
            self._counters.refused += 1

    async def release(self, token: RowToken) -> None:
        """Give the right back."""
        try:
            await self._store.release(self._link().exchange, self._scope, token.text, token.token)
        except CacheUnavailableError:
            self._counters.errors += 1

    async def point(self, text: str, key: Sequence[Any]) -> None:
        """Note which row has a natural key; whoever reads it checks that it still has."""
        form, body = self._codec.encode(list(key))
        try:
            await self._store.write(
                self._link().exchange, self._scope, text, form, body, lifetime(self.policy, self.ttl)
            )
        except CacheUnavailableError:
            self._counters.errors += 1

    async def pointed(self, text: str) -> tuple[Any, ...] | None:
        """The key of the row that was last seen with a natural key."""
        link = self._link()
        try:
            _, entry = await self._store.read_row(link.exchange, self._scope, text, self._counters)
            return None if entry is None else tuple(self._codec.decode(entry.form, entry.body))
        except (CacheUnavailableError, DamagedValueError, TypeError):
            self._counters.errors += 1
            return None

    async def announce(self, texts: Sequence[str] | None, token: str) -> None:
        """Before COMMIT: remove rows (all, for None) and keep them from being stored until `settle`."""
        link = self._link()
        try:
            await self._store.announce(link.exchange, self._scope, texts, token)
        except CacheUnavailableError:
            self._counters.errors += 1

    async def settle(self, texts: Sequence[str] | None, token: str) -> None:
        """After COMMIT: remove rows (all, for None); where Redis cannot be told, it is owed."""
        link = self._link()
        try:
            if link.debts:
                await link.settle(CHANGE_SECONDS)
            await self._store.settle(link.exchange, self._scope, texts, token)
        except CacheUnavailableError:
            self._counters.errors += 1
            self.note_owed()
            link.owe(self._scope, texts)
        else:
            self._counters.invalidations += 1

    async def tell_over(
        self, exchange: Exchange, texts: Sequence[str] | None, token: str, *, is_settled: bool
    ) -> None:
        """`settle` or `announce` over another connection.

        Raises:
            CacheUnavailableError: Redis could not be told.
        """
        how = self._store.settle if is_settled else self._store.announce
        await how(exchange, self._scope, texts, token)

    def note_owed(self) -> None:
        """Say that Redis could not be told of a change."""
        _logger.warning(
            "Redis could not be told that rows of %s have changed. This process reads none of them from the cache until "
            "it has been; other processes may see old ones until then, for at most %g s.",
            self.shape.name,
            self.ttl,
        )

    def columns_of(self, entity: Any, dialect: Dialect) -> dict[str, Any] | None:
        """What is stored of a row that was just loaded: encrypted columns encrypted."""
        loaded = entity.__dict__
        stored = {}
        for name, (column_type, is_deferred) in self._columns.items():
            if name not in loaded:
                if is_deferred:
                    continue
                return None
            value: Any = loaded[name]
            if isinstance(value, MutableBase):  # becomes one again when it is loaded
                value = _plain(value)
            stored[name] = value if column_type is None else column_type.process_bind_param(value, dialect)
        return stored

    def values_of(self, stored: Mapping[str, Any], dialect: Dialect) -> dict[str, Any]:
        """The inverse of `columns_of`."""
        return {
            name: value
            if (column_type := self._columns[name][0]) is None
            else column_type.process_result_value(value, dialect)
            for name, value in stored.items()
        }

    def _link(self) -> Link:
        return self.server.link()


def _plain(value: Any) -> Any:
    return next((kind(value) for kind in (dict, list, set) if isinstance(value, kind)), value)


def _register(cache: EntityCache, key: tuple[Any, ...]) -> None:
    from dotmac.database.caching import _entity_writes  # noqa: PLC0415 - nothing listens until a cache is made

    with _lock:
        _known[key] = cache
        _entity_writes.watch(cache)


def _cacheable_columns(shape: ModelShape) -> dict[str, tuple[TypeDecorator[Any] | None, bool]]:
    """Columns by name: the type that turns them into what the database holds, and whether they are deferred."""
    mapper: Mapper[Any] = shape.mapper
    name = shape.name
    if mapper.inherits is not None or mapper.polymorphic_on is not None or not isinstance(shape.table, Table):
        raise TypeError(f"{name} cannot be cached: it is part of a hierarchy, or is no table of its own.")
    eager = sorted(
        part.key
        for part in mapper.relationships
        if part.lazy in {"joined", False, "selectin", "subquery", "immediate"}
    )
    if eager:
        raise TypeError(
            f"{name} cannot be cached: {', '.join(eager)} would have to be loaded with it. Make it lazy in the mapping, "
            f"and name it in load=[…] where it is wanted."
        )
    columns: dict[str, tuple[TypeDecorator[Any] | None, bool]] = {}
    for attribute in mapper.column_attrs:
        column = attribute.columns[0]
        if not isinstance(column, Column):
            if attribute.deferred:
                continue
            raise TypeError(
                f"{name} cannot be cached: {attribute.key} is computed by a query, from what may change unseen."
            )
        column_type = column.type
        # A type that changes what is stored, as encryption does: the cache holds what the database holds.
        is_stored_form = isinstance(column_type, TypeDecorator) and isinstance(
            column_type.impl_instance, String | LargeBinary | Integer
        )
        columns[attribute.key] = (column_type if is_stored_form else None, attribute.deferred)  # type: ignore[assignment] # it is one
    return columns
