"""One database for asyncio code: an engine per event loop, made on first use, and its sessions.

A driver connection belongs to the loop it was opened on. So each running loop has an engine of its own, which is
disposed when that loop shuts down: a second ``asyncio.run`` never meets the first one's connections.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import event, text

from dotmac.database._per_loop import PerLoop
from dotmac.database.context import current_context
from dotmac.database.engine._connect import cut_off
from dotmac.database.engine._create import create_async_engine, settings_from
from dotmac.database.engine._read_only import read_only
from dotmac.database.engine._sessions import (
    create_session_factory,
    placed_session,
    unknown_database,
    with_async_session,
)
from dotmac.database.errors import ConfigurationError
from dotmac.database.tenancy import raise_quota_errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
    from sqlalchemy.pool import ConnectionPoolEntry

    from dotmac.database.engine._create import Source
    from dotmac.database.tenancy import PlacementResolver

_HEALTH_SECONDS = 5.0


class AsyncDatabase:
    """A database for asyncio code. Nothing connects before the first session is used.

    Takes a URL, `DatabaseSettings` or nothing (the environment), and engine arguments. It may be made at import
    time and used from any event loop. After `dispose` it can be used again, with a fresh pool.

    With ``tenants`` (a `TenantDirectory`) every session of `create_session` and `read_session` goes where its tenant's rows
    live: to shared tables, to a schema of its own, or to one of ``databases``, by the name the directory has for it.

    Example:
        >>> async def answer() -> int:
        ...     async with AsyncDatabase("sqlite+aiosqlite:///:memory:") as database:
        ...         async with database.create_session() as session:
        ...             return (await session.connection()).dialect.name
        >>> asyncio.run(answer())
        'sqlite'
    """

    def __init__(
        self,
        url: Source = None,
        *,
        tenants: PlacementResolver | None = None,
        databases: Mapping[str, AsyncDatabase] | None = None,
        **engine_arguments: Any,
    ) -> None:
        self.settings = settings_from(url)
        self._arguments = engine_arguments
        self._tenants = tenants
        # Not a copy: a database that is added later is found.
        self._databases: Mapping[str, AsyncDatabase] = {} if databases is None else databases
        self._per_loop: PerLoop[_Parts] = PerLoop(lambda: _Parts(self))

    def __repr__(self) -> str:
        return f"AsyncDatabase({self.settings.address!r})"

    @property
    def engine(self) -> AsyncEngine:
        """The running event loop's engine, for the primary.

        Raises:
            ConfigurationError: No event loop runs here.
        """
        return self._current().engine

    @property
    def session_factory(self) -> async_sessionmaker[AsyncSession]:
        """Makes sessions, for the running event loop, that the caller commits and closes."""
        return self._current().factory

    @property
    def read_session_factory(self) -> async_sessionmaker[AsyncSession]:
        """Same as `session_factory`, for sessions that are read-only at the server; on the replica if there is one."""
        return self._current().read_factory

    def create_session(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A session on the primary that commits when the block ends well and rolls back when it does not."""
        if self._tenants is None:
            return with_async_session(lambda: self._current().factory())
        return self._placed(lambda database: database._current().factory())  # noqa: SLF001 - another one of us

    write_session = create_session

    def read_session(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A session that is read-only at the server; on the replica where one is configured."""
        if self._tenants is None:
            return with_async_session(lambda: self._current().read_factory())
        return self._placed(lambda database: database._current().read_factory())  # noqa: SLF001 - another one of us

    @asynccontextmanager
    async def _placed(self, made: Callable[[AsyncDatabase], AsyncSession]) -> AsyncIterator[AsyncSession]:
        """A session where the rows of the tenant in force live; without a tenant, here."""
        tenants, tenant_id = self._tenants, current_context().tenant_id
        if tenants is None or tenant_id is None:
            async with with_async_session(lambda: made(self)) as session:
                yield session
            return
        placement = await tenants.placement_of(tenant_id)
        database = self if placement.connection is None else self._named(placement.connection)
        admit = getattr(tenants, "admit", None)
        async with AsyncExitStack() as places:
            if admit is not None:
                await places.enter_async_context(admit(placement))
            async with with_async_session(lambda: placed_session(made(database), placement)) as session:
                yield session

    def _named(self, name: str) -> AsyncDatabase:
        if name not in self._databases:
            raise unknown_database(name, self._databases)
        return self._databases[name]

    async def health(self, timeout_seconds: float = _HEALTH_SECONDS) -> float:
        """Seconds one new round trip to the primary takes; raises what connecting or asking raises.

        Raises:
            TimeoutError: No answer within ``timeout_seconds``.
        """
        started = time.perf_counter()
        async with asyncio.timeout(timeout_seconds), self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
        return time.perf_counter() - started

    async def check(self, timeout_seconds: float = _HEALTH_SECONDS) -> bool:
        """True when the primary answers within ``timeout_seconds``."""
        try:
            await self.health(timeout_seconds)
        except Exception:  # noqa: BLE001 - whatever the reason, it does not answer
            return False
        return True

    async def dispose(self) -> None:
        """Close the running loop's pooled connections. The next use starts a fresh pool."""
        await self._per_loop.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.dispose()

    def _current(self) -> _Parts:
        try:
            return self._per_loop.current()
        except RuntimeError:
            raise ConfigurationError(
                "AsyncDatabase needs a running event loop: its connections belong to one. Use it inside "
                "asyncio.run(…), or use Database for blocking code."
            ) from None


class _Parts:
    """What one event loop uses of a database."""

    def __init__(self, database: AsyncDatabase) -> None:
        settings, arguments = database.settings, database._arguments  # noqa: SLF001 - one thing in two pieces
        self.engine = create_async_engine(settings, **arguments)
        replica = settings.for_reading()
        self.read_engine = self.engine if replica is settings else create_async_engine(replica, **arguments)
        self.factory = create_session_factory(self.engine)
        self.read_factory = create_session_factory(read_only(self.read_engine))
        if database._tenants is not None:  # noqa: SLF001 - one thing in two pieces
            raise_quota_errors(self.engine.sync_engine)
        self._entries: weakref.WeakSet[ConnectionPoolEntry] = weakref.WeakSet()
        for engine in {self.engine, self.read_engine}:
            event.listen(engine.sync_engine, "connect", self._remember)

    def _remember(self, _connection: object, entry: ConnectionPoolEntry) -> None:
        self._entries.add(entry)

    async def close(self) -> None:
        await self.engine.dispose()
        if self.read_engine is not self.engine:
            await self.read_engine.dispose()

    def abandon(self) -> None:
        """Close what is left of a loop that ended without shutting down, for example by ``loop.close()``."""
        for entry in self._entries:
            cut_off(entry.driver_connection)
