"""The directory of tenants for blocking code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from dotmac.database.tenancy._directory_core import DirectoryCore, NewTenant, serving
from dotmac.database.tenancy._directory_options import DirectoryOptions
from dotmac.database.tenancy._names import check_slug, check_tenant_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from sqlalchemy.engine import Engine

    from dotmac.database.tenancy._directory_cache import Known
    from dotmac.database.tenancy._placement import IsolationMode, Placement
    from dotmac.database.tenancy._quotas import Quotas
    from dotmac.database.tenancy._tenant import Tenant, TenantStatus

_T = TypeVar("_T")


class HasEngine(Protocol):
    """A `Database`, or anything that has an engine."""

    @property
    def engine(self) -> Engine:
        """The engine."""
        ...


class BlockingTenantDirectory:
    """Same as `TenantDirectory`, blocking: takes a `Database` or an engine. Its memory and its lines are its own.

    Example:
        >>> from dotmac.database import Database
        >>> with Database("sqlite:///:memory:") as database:
        ...     directory = BlockingTenantDirectory(database)
        ...     directory.install()
        ...     directory.placement_of(directory.create("acme").id).mode
        <IsolationMode.SHARED: 'shared'>
    """

    def __init__(
        self,
        database: Engine | HasEngine,
        options: DirectoryOptions | None = None,
        *,
        administrator: Engine | HasEngine | None = None,
    ) -> None:
        self.options = options or DirectoryOptions()
        self._database = database
        self._administrator = database if administrator is None else administrator
        self._core = DirectoryCore(self.options)

    def install(self) -> None:
        """Same as `TenantDirectory.install`, blocking."""
        self._change(self._core.install)

    def create(
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
        """Same as `TenantDirectory.create`, blocking."""
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
        return self._change(lambda engine: self._core.create(engine, new))

    def register(
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
        """Same as `TenantDirectory.register`, blocking."""
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
        return self._change(lambda engine: self._core.create(engine, new))

    def suspend(self, tenant_id: str) -> Tenant:
        """Same as `TenantDirectory.suspend`, blocking."""
        return self._change(lambda engine: self._core.change(engine, tenant_id, is_active=False))

    def resume(self, tenant_id: str) -> Tenant:
        """Same as `TenantDirectory.resume`, blocking."""
        return self._change(lambda engine: self._core.change(engine, tenant_id, is_active=True))

    def rename(self, tenant_id: str, slug: str) -> Tenant:
        """Same as `TenantDirectory.rename`, blocking."""
        check_slug(slug)
        return self._change(lambda engine: self._core.change(engine, tenant_id, slug=slug))

    def set_quotas(self, tenant_id: str, quotas: Quotas) -> Tenant:
        """Same as `TenantDirectory.set_quotas`, blocking."""
        return self._change(lambda engine: self._core.set_quotas(engine, tenant_id, quotas))

    def drop(self, tenant_id: str, *, confirm: str, keep_data: bool = False) -> Tenant:
        """Same as `TenantDirectory.drop`, blocking."""
        return self._change(lambda engine: self._core.drop(engine, tenant_id, confirm, keep_data=keep_data))

    def rows_quota_of(self, tenant_id: str) -> Mapping[str, int]:
        """Same as `TenantDirectory.rows_quota_of`, blocking."""
        return (self._known(tenant_id)).tenant.quotas.rows

    def admit(self, placement: Placement) -> AbstractContextManager[None]:
        """Same as `TenantDirectory.admit`, blocking."""
        return self._core.placed(placement)

    def get(self, tenant_id: str) -> Tenant:
        """Same as `TenantDirectory.get`, blocking."""
        return (self._run(lambda engine: self._core.read(engine, tenant_id=tenant_id))).tenant

    def get_by_slug(self, slug: str) -> Tenant:
        """Same as `TenantDirectory.get_by_slug`, blocking."""
        return (self._run(lambda engine: self._core.read(engine, slug=slug))).tenant

    def list(
        self, *, status: TenantStatus | None = None, after: str | None = None, limit: int | None = None
    ) -> list[Tenant]:
        """Same as `TenantDirectory.list`, blocking."""
        return self._run(lambda engine: self._core.list(engine, status=status, after=after, limit=limit))

    def resolve(self, slug: str) -> Tenant:
        """Same as `TenantDirectory.resolve`, blocking."""
        known = self._core.cache.fresh_slug(slug)
        if known is None:
            known = self._run(lambda engine: self._core.read(engine, slug=slug))
        return serving(known).tenant

    def placement_of(self, tenant_id: str) -> Placement:
        """Same as `TenantDirectory.placement_of`, blocking."""
        known = self._core.cache.fresh(tenant_id)
        return serving(self._known(tenant_id) if known is None else known).placement

    def _known(self, tenant_id: str) -> Known:
        known = self._core.cache.fresh(tenant_id)
        return known or self._run(
            lambda engine: self._core.read(engine, tenant_id=check_tenant_id(tenant_id))
        )

    def _run(self, operation: Callable[[Engine], _T]) -> _T:
        return operation(self._database.engine)

    def _change(self, operation: Callable[[Engine], _T]) -> _T:
        return operation(self._administrator.engine)
