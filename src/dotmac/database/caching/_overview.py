"""Every cache in a Redis, for whoever runs it: what is there, what was counted, and how to empty it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from dotmac.database.caching._cache import SmartCache
from dotmac.database.caching._client import get_redis_client
from dotmac.database.caching._exchange import CacheUnavailableError
from dotmac.database.caching._freshness import CachePolicy
from dotmac.database.caching._keys import quoted
from dotmac.database.caching._link import linked
from dotmac.database.caching._statistics import Counters
from dotmac.database.errors import DatabaseUnavailableError

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster

_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class SpaceReport:
    """One namespace and tenant.

    Attributes:
        namespace: Name of the cache.
        tenant: Whose entries, or None for the space of no tenant.
        entries: How many values Redis holds, valid or not.
        counters: What all processes counted and told.
    """

    namespace: str
    tenant: str | None
    entries: int
    counters: Counters

    def as_mapping(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "namespace": self.namespace,
            "tenant": self.tenant,
            "entries": self.entries,
            **self.counters.as_mapping(),
        }


async def overview(
    namespace: str | None = None,
    tenant: str | None = None,
    *,
    client: Redis | RedisCluster | None = None,
    prefix: str = "dotmac",
) -> list[SpaceReport]:
    """What there is in Redis, by namespace and tenant. Reads the names of all keys: for people, not for requests.

    Raises:
        DatabaseUnavailableError: Redis does not answer.
    """
    cache = SmartCache("overview", policy=CachePolicy(timeout_seconds=_SECONDS), client=client, prefix=prefix)
    exchange = linked(client or get_redis_client()).link().exchange
    entries: dict[tuple[str, str | None], int] = {}
    start = f"{quoted(prefix)}:{{"
    try:
        async for keys in cache._store.scan(exchange, f"{start}*"):  # noqa: SLF001 - one thing in two pieces
            for key in keys:
                space, _, rest = key.decode(errors="replace").removeprefix(start).partition("}:")
                name, _, owner = space.partition(":")
                named = (unquote(name), unquote(owner) if owner else None)
                entries[named] = entries.get(named, 0) + rest.startswith("v:")
        reports = []
        for (name, whose), count in sorted(entries.items(), key=str):
            if namespace in (None, name) and tenant in (None, whose):
                scope = cache._spaces.scope_of(name, whose)  # noqa: SLF001 - same
                told = await exchange.command(_SECONDS, "HGETALL", scope.counters)
                reports.append(SpaceReport(name, whose, count, _counted(told)))
    except CacheUnavailableError as error:
        raise unavailable(error) from error
    return reports


def unavailable(error: Exception) -> DatabaseUnavailableError:
    """What is raised where a cache must not fail open."""
    return DatabaseUnavailableError(
        f"Redis does not answer ({error}). Look at REDIS_URL, and whether the server runs.",
        waited_seconds=_SECONDS,
        attempts=1,
    )


def _counted(told: Any) -> Counters:
    pairs = told.items() if isinstance(told, dict) else zip(told[::2], told[1::2], strict=True)
    counters = Counters()
    counters.add({bytes(name).decode(): int(count) for name, count in pairs})
    return counters
