"""One Redis client for the process, with connections for each event loop: made at import time, right in any loop."""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager, suppress
from functools import cache
from inspect import signature
from ssl import TLSVersion
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import ConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff, NoBackoff
from redis.exceptions import RedisError

from dotmac.database._per_loop import PerLoop
from dotmac.database.caching._certificates import check_tls_options, sharing_certificates
from dotmac.database.caching._pools import PlainPool, SentinelPool
from dotmac.database.errors import ConfigurationError
from dotmac.database.settings import DatabaseSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PLAIN_SCHEMES = {"redis", "rediss", "unix"}
_SENTINEL_SCHEMES = {"redis+sentinel": False, "sentinel": False, "rediss+sentinel": True}
_CLUSTER_SCHEMES = {"redis+cluster": False, "rediss+cluster": True}
_FORMS = (
    "redis://host:6379/0, rediss://… (TLS), unix:///path/redis.sock?db=0, "
    "redis+sentinel://host:26379,host:26379/service/0 or redis+cluster://host:6379,host:6379"
)
_DEFAULT_PORTS = {"sentinel": 26379, "cluster": 6379}
_lock = threading.Lock()


def get_redis_client() -> Redis | RedisCluster:
    """The process-wide client of the Redis that ``REDIS_URL`` names, from the environment as it was on first use.

    It may be asked for at import time and used on any event loop; nothing connects before the first command. Its
    connections, at most ``REDIS_MAX_CONNECTIONS`` for each loop, are closed when their loop shuts down. A client of Redis
    Cluster belongs to the running loop: ask for it where it is used.

    Raises:
        ConfigurationError: ``REDIS_URL`` cannot work, or names a cluster and no event loop runs here.
    """
    return _server().client()


def get_redis_pool() -> ConnectionPool:
    """The connection pool of `get_redis_client`, for clients of your own: ``Redis(connection_pool=get_redis_pool())``.

    Raises:
        ConfigurationError: ``REDIS_URL`` names a cluster, which has a pool for each node, or cannot work.
    """
    return _server().pool()


def server_in_use() -> RedisServer | None:
    """What `get_redis_client` made, if it was asked."""
    with _lock:
        return _process_wide() if _process_wide.cache_info().currsize else None


def _server() -> RedisServer:
    with _lock:
        return _process_wide()


@cache
def _process_wide() -> RedisServer:
    return RedisServer.from_settings(DatabaseSettings())


class RedisServer:
    """A Redis, Sentinel or Cluster by its URL, and its connections for each event loop.

    Args:
        url: In one of the forms that `get_redis_client` takes.
        max_connections: For each event loop (and, on a cluster, node).

    Raises:
        ConfigurationError: The URL is in no form that is known; the message does not show it.
    """

    def __init__(self, url: str, *, max_connections: int = 50, **arguments: Any) -> None:
        self._loop_client: PerLoop[_ClusterOfLoop] | None = None
        self._client: Redis | None = None
        arguments.setdefault("retry", Retry(NoBackoff(), 1))
        scheme = url.partition("://")[0].lower()
        check_tls_options(url, is_tls=scheme.startswith("rediss"))
        if scheme in _CLUSTER_SCHEMES:
            make_cluster = _cluster_maker(
                url, is_tls=_CLUSTER_SCHEMES[scheme], max_connections=max_connections, arguments=arguments
            )
            self._loop_client = PerLoop(lambda: _ClusterOfLoop(make_cluster()))
            return
        if scheme in _SENTINEL_SCHEMES:
            with _explained():
                make_pool = _sentinel_maker(
                    url,
                    is_tls=_SENTINEL_SCHEMES[scheme],
                    max_connections=max_connections,
                    arguments=arguments,
                )
        elif scheme in _PLAIN_SCHEMES:
            make_pool = _plain_maker(url, max_connections, arguments)
        else:
            raise ConfigurationError(f"REDIS_URL has an unknown scheme. It is one of: {_FORMS}.")
        self._client = Redis(connection_pool=LoopPool(make_pool))

    @classmethod
    def from_settings(cls, settings: DatabaseSettings) -> RedisServer:
        """What ``REDIS_URL`` and ``REDIS_MAX_CONNECTIONS`` say."""
        return cls(settings.redis_url.get_secret_value(), max_connections=settings.redis_max_connections)

    def client(self) -> Redis | RedisCluster:
        """Its client, for the running loop if it is a cluster."""
        if self._loop_client is None:
            assert self._client is not None  # noqa: S101 - one of the two is
            return self._client
        try:
            return self._loop_client.current().cluster
        except RuntimeError:
            raise ConfigurationError(
                "A client of Redis Cluster belongs to an event loop: call get_redis_client() inside one."
            ) from None

    def is_of(self, client: Redis | RedisCluster) -> bool:
        """True for its client on the running loop."""
        if self._loop_client is None:
            return client is self._client
        existing = self._loop_client.existing()
        return existing is not None and existing.cluster is client

    def pool(self) -> ConnectionPool:
        """Its pool."""
        if self._client is None:
            raise ConfigurationError(
                "Redis Cluster has a connection pool for each node: use get_redis_client() instead."
            )
        pool: ConnectionPool = self._client.connection_pool
        return pool

    async def close(self) -> None:
        """Close the running loop's connections."""
        if self._loop_client is not None:
            await self._loop_client.close()
        else:
            await self.pool().aclose()


class LoopPool(ConnectionPool):
    """A pool that hands out connections of the running event loop's own pool.

    Args:
        make: Makes a loop's pool.
    """

    def __init__(self, make: Callable[[], ConnectionPool]) -> None:
        pattern = make()  # never connects; it says what connections are made of
        super().__init__(
            connection_class=pattern.connection_class,
            max_connections=pattern.max_connections,
            **pattern.connection_kwargs,
        )
        self._pools: PerLoop[_PoolOfLoop] = PerLoop(lambda: _PoolOfLoop(make()))

    @property
    def of_this_loop(self) -> Any:
        """The running event loop's own pool."""
        return self._pools.current().pool

    def can_get_connection(self) -> bool:
        """See `ConnectionPool`."""
        return bool(self.of_this_loop.can_get_connection())

    async def get_connection(self, *arguments: Any, **options: Any) -> Any:
        """See `ConnectionPool`."""
        return await self.of_this_loop.get_connection(*arguments, **options)

    def get_available_connection(self) -> Any:
        """See `ConnectionPool`."""
        return self.of_this_loop.get_available_connection()

    async def ensure_connection(self, connection: Any) -> None:
        """See `ConnectionPool`."""
        await self.of_this_loop.ensure_connection(connection)

    async def release(self, connection: Any) -> None:
        """See `ConnectionPool`."""
        await self.of_this_loop.release(connection)

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's signature
        """See `ConnectionPool`."""
        pool = self._pools.existing()
        if pool is not None:
            await pool.pool.disconnect(inuse_connections)

    async def aclose(self) -> None:
        """Close the running loop's connections; the next command opens new ones."""
        await self._pools.close()


class _PoolOfLoop:
    def __init__(self, pool: Any) -> None:  # a ConnectionPool, half of whose methods are not annotated
        self.pool = pool

    async def close(self) -> None:
        await self.pool.disconnect(inuse_connections=True)
        self.pool.reset()

    def abandon(self) -> None:
        _abandon(self.pool)


class _ClusterOfLoop:
    def __init__(self, cluster: RedisCluster) -> None:
        self.cluster = cluster

    async def close(self) -> None:
        await self.cluster.aclose()

    def abandon(self) -> None:
        self.cluster.__dict__["_initialize"] = True  # its __del__ would speak of a loop that is gone


def _abandon(pool: Any) -> None:
    for inner in getattr(pool, "inner_pools", ()):
        _abandon(inner)
    for connection in [*pool._available_connections, *pool._in_use_connections]:  # noqa: SLF001 - there is no public way
        abandon_connection(connection)
    pool.reset()


def abandon_connection(connection: Any) -> None:
    """Close the socket of a connection whose loop is gone, without it."""
    writer = getattr(connection, "_writer", None)
    if writer is not None:
        with suppress(Exception):
            writer.transport._sock.close()  # noqa: SLF001 - there is no public way
        connection._writer = connection._reader = None  # noqa: SLF001 - same


def _plain_maker(url: str, max_connections: int, arguments: dict[str, Any]) -> Callable[[], ConnectionPool]:
    with _explained():
        options = {
            "max_connections": max_connections,
            "timeout": _WAIT_SECONDS,
            **arguments,
            **_options_of(url),
        }
        return sharing_certificates(lambda: PlainPool(**options))


_WAIT_SECONDS = 20.0
_HOST = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:]+))(?::(?P<port>\d+))?\Z")


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"REDIS_URL names certificates or keys that cannot be used: {type(error).__name__}, "
            f"{error.strerror or error}."
        ) from None
    except (ValueError, TypeError, RedisError) as error:
        # redis-py's messages may quote the URL, password included.
        raise ConfigurationError(
            f"REDIS_URL does not fit ({type(error).__name__}). It is one of: {_FORMS}."
        ) from None


def _options_of(url: str) -> dict[str, Any]:
    options: dict[str, Any] = {**parse_url(url)}
    if "ssl_min_version" in options:  # a text before redis-py 8
        options["ssl_min_version"] = TLSVersion(int(options["ssl_min_version"]))
    return options


def _hosts(url: str, kind: str) -> tuple[list[tuple[str, int]], dict[str, Any], list[str]]:
    """Hosts, credentials and options, and path of a URL with several hosts."""
    rest = urlsplit("//" + url.partition("://")[2], allow_fragments=False)
    credentials, _, addresses = rest.netloc.rpartition("@")
    hosts = []
    for address in addresses.split(","):
        match = _HOST.match(address)
        if match is None:
            raise ConfigurationError(f"REDIS_URL names a host that does not fit. It is one of: {_FORMS}.")
        hosts.append((match["v6"] or match["host"], int(match["port"] or _DEFAULT_PORTS[kind])))
    options = _options_of(f"redis://?{rest.query}")
    user, _, password = credentials.partition(":")
    if password:
        options["password"] = unquote(password)
    if user:
        options["username"] = unquote(user)
    return hosts, options, [unquote(part) for part in rest.path.split("/") if part]


def _sentinel_maker(
    url: str, *, is_tls: bool, max_connections: int, arguments: dict[str, Any]
) -> Callable[[], ConnectionPool]:
    hosts, options, path = _hosts(url, "sentinel")
    if not path:
        raise ConfigurationError(f"REDIS_URL names Sentinels but no service. It is one of: {_FORMS}.")
    service, database = path[0], options.pop("db", path[1] if len(path) > 1 else "0")
    sentinel_arguments = {
        name.removeprefix("sentinel_"): options.pop(name)
        for name in ("sentinel_username", "sentinel_password")
        if name in options
    }
    # Sentinels are trusted as the servers are that they name. When one is down, the next is asked, not the same again.
    sentinel_arguments |= {name: value for name, value in options.items() if name.startswith("ssl")}
    sentinel_arguments["retry"] = Retry(NoBackoff(), 0)
    arguments = {**arguments, **options, "db": int(database)}
    # A failover lasts longer than one attempt at once.
    arguments["retry"] = Retry(ConstantBackoff(0.1), 3)

    def make() -> SentinelPool:
        # redis-py's Sentinel classes are not annotated.
        make_sentinel: Any = Sentinel
        make_sentinel_pool: Any = SentinelPool
        sentinel = make_sentinel(hosts, sentinel_kwargs={**sentinel_arguments, "ssl": is_tls})
        pool: SentinelPool = make_sentinel_pool(
            service, sentinel, max_connections=max_connections, ssl=is_tls, **arguments
        )
        return pool

    return sharing_certificates(make)


def _cluster_maker(
    url: str, *, is_tls: bool, max_connections: int, arguments: dict[str, Any]
) -> Callable[[], RedisCluster]:
    with _explained():
        hosts, options, _ = _hosts(url, "cluster")
        arguments = {name: value for name, value in {**arguments, **options}.items() if name != "retry"}
        signature(RedisCluster).bind_partial(**arguments)
        if is_tls:
            tls = {name: value for name, value in options.items() if name.startswith("ssl")}
            SSLConnection(**tls).ssl_context.get()

    def make() -> RedisCluster:
        return RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in hosts],
            max_connections=max_connections,
            ssl=is_tls,
            **arguments,
        )

    return make
