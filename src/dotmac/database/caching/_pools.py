"""The pools of connections that redis-py lacks: with certificates in common, and with Sentinels that may be down."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from redis.asyncio import BlockingConnectionPool, ConnectionPool
from redis.asyncio.sentinel import SentinelConnectionPool

if TYPE_CHECKING:
    from redis.asyncio import Sentinel

    from dotmac.database.caching._certificates import Certificates


class SharingPool(ConnectionPool):
    """A pool whose connections share their certificates."""

    certificates: Certificates | None = None

    def make_connection(self) -> Any:
        """See `ConnectionPool`."""
        pool: Any = super()  # half of redis-py's pools is not annotated
        connection = pool.make_connection()
        if self.certificates is not None:
            connection.ssl_context = self.certificates
        return connection


class PlainPool(SharingPool, BlockingConnectionPool):
    """A pool for one server."""


class SentinelPool(SharingPool, SentinelConnectionPool):
    """A pool for the primary that Sentinels name. A Sentinel that does not answer is asked last the next time."""

    def __init__(self, service_name: str, sentinel_manager: Sentinel, **options: Any) -> None:
        pool: Any = super()
        pool.__init__(service_name, sentinel_manager, **options)
        self._order = deque(sentinel_manager.sentinels)

    async def get_master_address(self) -> Any:
        """See `SentinelConnectionPool`."""
        first = self._order[0]
        # redis-py moves the one that answered to the front, and loses another when it does so twice at a time.
        self.sentinel_manager.sentinels = list(self._order)
        pool: Any = super()
        try:
            return await pool.get_master_address()
        except BaseException:
            if self._order[0] is first:
                self._order.rotate(-1)
            raise

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's signature
        """See `ConnectionPool`; with those in use, the connections to Sentinels end too."""
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for pool in self.inner_pools:
                await pool.disconnect()

    @property
    def inner_pools(self) -> list[Any]:
        """The pools of connections to Sentinels."""
        return [sentinel.connection_pool for sentinel in self._order]
