"""The directory of tenants for asyncio code: who there is, where their rows live, and may they be served."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sqlalchemy.util import greenlet_spawn

from dotmac.database.tenancy._directory_core import DirectoryCore, NewTenant, serving
from dotmac.database.tenancy._directory_options import DirectoryOptions
from dotmac.database.tenancy._names import check_slug, check_tenant_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.engine import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from dotmac.database.tenancy._directory_cache import Known
    from dotmac.database.tenancy._placement import IsolationMode, Placement
    from dotmac.database.tenancy._quotas import Quotas
    from dotmac.database.tenancy._tenant import Tenant, TenantStatus

_T = TypeVar("_T")
_Reads = dict[tuple[str, str], "asyncio.Task[Known]"]


class HasAsyncEngine(Protocol):
    """An `AsyncDatabase`, or anything that has an engine for the loop that runs."""

    @property
    def engine(self) -> AsyncEngine:
        """The engine."""
        ...


class TenantDirectory:
    """The directory of tenants.

    Takes an `AsyncDatabase` or an asyncio engine whose role may read the directory's table. What changes tenants goes
    through ``administrator``, by default the same: its role may create schemas, and databases and roles where wanted.

    Resolving a tenant is answered from memory; a change made by another process is seen within ``options.stale_for``.

    Example:
        >>> from dotmac.database import AsyncDatabase
        >>> async def answer() -> str:
        ...     async with AsyncDatabase("sqlite+aiosqlite:///:memory:") as database:
        ...         directory = TenantDirectory(database)
        ...         await directory.install()
        ...         acme = await directory.create("acme")
        ...         return (await directory.placement_of(acme.id)).mode
        >>> asyncio.run(answer())
        <IsolationMode.SHARED: 'shared'>
    """

    def __init__(
        self,
        database: AsyncEngine | HasAsyncEngine,
        options: DirectoryOptions | None = None,
        *,
        administrator: AsyncEngine | HasAsyncEngine | None = None,
    ) -> None:
        self.options = options or DirectoryOptions()
        self._database = database
        self._administrator = database if administrator is None else administrator
        self._core = DirectoryCore(self.options)
        # Per loop: callers that want the same tenant at the same time share one question.
        self._reads: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Reads] = (
            weakref.WeakKeyDictionary()
        )

    async def install(self) -> None:
        """Make the directory's table and schemas where they are missing, and let the application role read them."""
        await self._change(self._core.install)

    async def create(
        self,
        slug: str,
        *,
        mode: IsolationMode | str = "shared",
        tenant_id: str | None = None,
        name: str | None = None,
        connection: str | None = None,
        schema: str | None = None,
        role: str | bool | None = None,
        quotas: Quotas | None = None,
    ) -> Tenant:
        """A new tenant, with the tables that its mode gives it.

        Args:
            slug: What people and URLs call it.
            mode: How its rows are kept apart.
            tenant_id: What rows call it; default: a new UUIDv7.
            name: What it is called in full.
            connection: Name of the database its rows are on; default: the one the application works with.
            schema: In mode SCHEMA; default: ``tenant_<slug>``, with ``__`` for ``-``.
            role: In mode SCHEMA: a database role of its own (True: called as the schema).
            quotas: What it may use.

        Raises:
            ValidationError: The slug or id cannot be one.
            TenantExistsError: The id, slug or schema is taken in the directory.
            SchemaError: The schema, database or role exists, or cannot be made. Nothing is left behind.
        """
        new = NewTenant.checked(
            slug,
            mode=mode,
            tenant_id=tenant_id,
            name=name,
            connection=connection,
            schema=schema,
            role=role,
            quotas=quotas,
        )
        return await self._change(lambda engine: self._core.create(engine, new))

    async def register(
        self,
        slug: str,
        *,
        mode: IsolationMode | str,
        tenant_id: str | None = None,
        name: str | None = None,
        connection: str | None = None,
        schema: str | None = None,
        role: str | None = None,
        quotas: Quotas | None = None,
    ) -> Tenant:
        """A tenant whose schema or database exists already. It stays its maker's: `drop` leaves it alone.

        Arguments and errors as for `create`.
        """
        new = NewTenant.checked(
            slug,
            mode=mode,
            tenant_id=tenant_id,
            name=name,
            connection=connection,
            schema=schema,
            role=role,
            quotas=quotas,
            is_owned=False,
        )
        return await self._change(lambda engine: self._core.create(engine, new))

    async def suspend(self, tenant_id: str) -> Tenant:
        """Serve the tenant no more: here at once, in other processes within ``options.stale_for``.

        What runs already runs to its end. Suspending twice changes nothing.
        """
        return await self._change(lambda engine: self._core.change(engine, tenant_id, is_active=False))

    async def resume(self, tenant_id: str) -> Tenant:
        """Serve the tenant again."""
        return await self._change(lambda engine: self._core.change(engine, tenant_id, is_active=True))

    async def rename(self, tenant_id: str, slug: str) -> Tenant:
        """Call the tenant ``slug`` from now on. Its id stays, and so does its schema or database, under its old name.

        Raises:
            TenantExistsError: Another tenant is called so.
        """
        check_slug(slug)
        return await self._change(lambda engine: self._core.change(engine, tenant_id, slug=slug))

    async def set_quotas(self, tenant_id: str, quotas: Quotas) -> Tenant:
        """Give the tenant ``quotas`` in place of those it has. A table with a quota is locked while its rows are counted.

        Raises:
            ValidationError: A quota of rows cannot be kept on this database or for this table.
        """
        return await self._change(lambda engine: self._core.set_quotas(engine, tenant_id, quotas))

    async def drop(self, tenant_id: str, *, confirm: str, keep_data: bool = False) -> Tenant:
        """Remove the tenant and its data: rows, schema or database. Returns it as it was.

        Args:
            tenant_id: Which one.
            confirm: Its slug, once more.
            keep_data: True to remove it from the directory alone. What was registered is kept in any case.

        Raises:
            ValidationError: ``confirm`` is not its slug.
            SchemaError: The schema or database is not the one the directory made, or something else depends on it.
        """
        return await self._change(
            lambda engine: self._core.drop(engine, tenant_id, confirm, keep_data=keep_data)
        )

    async def rows_quota_of(self, tenant_id: str) -> Mapping[str, int]:
        """How many rows the tenant may have, by table; from memory."""
        return (await self._known(tenant_id)).tenant.quotas.rows

    def admit(self, placement: Placement) -> AbstractAsyncContextManager[None]:
        """A place for one session of the tenant; waits for one where the quota of connections is used up.

        Raises:
            QuotaExceededError: On entering: none became free within ``options.admission_timeout``.
        """
        return self._core.placed(placement)

    async def get(self, tenant_id: str) -> Tenant:
        """The tenant, read now, whatever its status.

        Raises:
            TenantNotFoundError: There is none.
        """
        return (await self._run(lambda engine: self._core.read(engine, tenant_id=tenant_id))).tenant

    async def get_by_slug(self, slug: str) -> Tenant:
        """Same as `get`, by slug."""
        return (await self._run(lambda engine: self._core.read(engine, slug=slug))).tenant

    async def list(
        self, *, status: TenantStatus | None = None, after: str | None = None, limit: int | None = None
    ) -> list[Tenant]:
        """Tenants in order of their slugs; the next page begins ``after`` the last slug of this one."""
        return await self._run(
            lambda engine: self._core.list(engine, status=status, after=after, limit=limit)
        )

    async def resolve(self, slug: str) -> Tenant:
        """The tenant called ``slug``, if it may be served; from memory.

        Raises:
            TenantNotFoundError: There is none.
            TenantSuspendedError: It must not be served now.
        """
        known = self._core.cache.fresh_slug(slug)
        if known is None:
            known = await self._read_once("slug", check_slug(slug))
        return serving(known).tenant

    async def placement_of(self, tenant_id: str) -> Placement:
        """Where the tenant's rows live, if it may be served; from memory.

        Raises:
            TenantNotFoundError: There is none.
            TenantSuspendedError: It must not be served now.
        """
        known = self._core.cache.fresh(tenant_id)
        return serving(await self._known(tenant_id) if known is None else known).placement

    async def _known(self, tenant_id: str) -> Known:
        return self._core.cache.fresh(tenant_id) or await self._read_once(
            "tenant_id", check_tenant_id(tenant_id)
        )

    async def _read_once(self, key: str, value: str) -> Known:
        loop = asyncio.get_running_loop()
        reads = self._reads.setdefault(loop, {})
        task = reads.get((key, value))
        if task is None:
            task = loop.create_task(self._run(lambda engine: self._core.read(engine, **{key: value})))
            reads[key, value] = task
            task.add_done_callback(lambda done: _ended(done, reads, (key, value)))
        # One caller that gives up must not take the answer from the others.
        return await asyncio.shield(task)

    async def _run(self, operation: Callable[[Engine], _T]) -> _T:
        return await greenlet_spawn(operation, _engine_of(self._database).sync_engine)

    async def _change(self, operation: Callable[[Engine], _T]) -> _T:
        try:
            return await greenlet_spawn(operation, _engine_of(self._administrator).sync_engine)
        finally:
            # Who asks from now on must not be given an answer to a question from before.
            for reads in list(self._reads.values()):
                reads.clear()


def _engine_of(database: Any) -> AsyncEngine:
    # An AsyncEngine has an attribute `engine` too: its blocking half.
    engine: AsyncEngine = database if hasattr(database, "sync_engine") else database.engine
    return engine


def _ended(task: asyncio.Task[Known], reads: _Reads, key: tuple[str, str]) -> None:
    if reads.get(key) is task:
        del reads[key]
    if not task.cancelled():
        task.exception()  # seen: every caller may have gone
