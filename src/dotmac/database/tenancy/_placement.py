"""Where a tenant's rows live: in shared tables, in a schema of its own, or on a database of its own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from datetime import timedelta


class IsolationMode(StrEnum):
    """How a tenant's rows are kept apart from others'."""

    SHARED = "shared"
    """Tables of all tenants, a tenant column, row-level security."""
    SCHEMA = "schema"
    """A schema of the tenant's own, found by ``search_path``."""
    DATABASE = "database"
    """A database of the tenant's own."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one tenant's rows live, and what the server is told about it when a transaction begins.

    Attributes:
        tenant_id: The tenant.
        mode: How its rows are kept apart.
        connection: Name of the database they are on; None is the one the caller works with.
        schema: The tenant's schema, in mode SCHEMA (and in DATABASE, if its tables are not in the default one).
        shared_schema: The schema of tables that all tenants share, last in ``search_path``; None for none.
        role: The role that transactions switch to (``SET LOCAL ROLE``), where a schema has a role of its own.
        statement_timeout: The longest time one statement may take; None for the server's own limit.
    """

    tenant_id: str
    mode: IsolationMode = IsolationMode.SHARED
    connection: str | None = None
    schema: str | None = None
    shared_schema: str | None = None
    role: str | None = None
    statement_timeout: timedelta | None = None


@runtime_checkable
class PlacementResolver(Protocol):
    """Tells where a tenant's rows live; `dotmac.database.tenancy.TenantDirectory` is one."""

    async def placement_of(self, tenant_id: str) -> Placement:
        """The placement; an error where the tenant is unknown or suspended."""
        ...


@runtime_checkable
class BlockingPlacementResolver(Protocol):
    """Same as `PlacementResolver`, blocking."""

    def placement_of(self, tenant_id: str) -> Placement:
        """The placement; an error where the tenant is unknown or suspended."""
        ...
