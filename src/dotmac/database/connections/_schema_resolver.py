"""Which schema a piece of work belongs in: the platform's, the one all tenants share, or a tenant's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from dotmac.database.context import current_context
from dotmac.database.errors import MissingTenantError, SchemaError
from dotmac.database.tenancy import check_schema_name, check_tenant_id, is_schema_name, schema_name

if TYPE_CHECKING:
    from dotmac.database.tenancy import PlacementResolver

_CONTEXTS = ("admin", "tenant", "shared")


@runtime_checkable
class SchemaResolverProtocol(Protocol):
    """What a resolver of schemas can do; `SchemaResolver` is one."""

    async def resolve_schema(self, tenant_id: str | None = None, context_type: str = "admin") -> str:
        """The schema for a kind of work."""
        ...

    async def get_tenant_schema(self, tenant_id: str) -> str:
        """The tenant's schema."""
        ...

    async def validate_schema_name(self, schema_name: str) -> bool:
        """True if a schema may be called so."""
        ...

    async def get_admin_schema(self) -> str:
        """The platform's schema."""
        ...


class SchemaResolver:
    """Tells the schema for a kind of work. Every name it gives needs no quotes.

    With a `TenantDirectory` a tenant's schema is the one written down there, and unknown or suspended tenants are errors.
    Without one it follows from the tenant's id, taken as a slug: ``tenant_<id>``, with ``__`` for ``-``.

    Example:
        >>> import asyncio
        >>> asyncio.run(SchemaResolver().resolve_schema(tenant_id="tenant-123", context_type="tenant"))
        'tenant_tenant__123'
    """

    def __init__(
        self,
        directory: PlacementResolver | None = None,
        *,
        admin_schema: str = "admin",
        shared_schema: str = "shared",
    ) -> None:
        self._directory = directory
        self._admin_schema = check_schema_name(admin_schema)
        self._shared_schema = check_schema_name(shared_schema, public_too=True)

    async def resolve_schema(self, tenant_id: str | None = None, context_type: str = "admin") -> str:
        """The schema for a kind of work: ``"admin"``, ``"tenant"`` or ``"shared"``.

        For ``"tenant"`` without a ``tenant_id``, the tenant of the context in force.

        Raises:
            ValueError: There is no such kind.
            MissingTenantError: No tenant is given and none is bound.
        """
        if context_type not in _CONTEXTS:
            raise ValueError(f"context_type is one of {', '.join(_CONTEXTS)}, not {context_type!r}.")
        if context_type == "admin":
            return self._admin_schema
        if context_type == "shared":
            return self._shared_schema
        tenant = tenant_id if tenant_id is not None else current_context().tenant_id
        if tenant is None:
            raise MissingTenantError("A tenant's schema")
        return await self.get_tenant_schema(tenant)

    async def get_tenant_schema(self, tenant_id: str) -> str:
        """The tenant's schema.

        Raises:
            ValidationError: The id cannot be one.
            TenantNotFoundError: The directory knows no such tenant.
            TenantSuspendedError: The tenant must not be served now.
            SchemaError: The tenant has no schema of its own.
        """
        if self._directory is None:
            return schema_name(tenant_id)
        placement = await self._directory.placement_of(check_tenant_id(tenant_id))
        if placement.schema is None:
            raise SchemaError(
                f"The tenant {tenant_id!r} has no schema of its own: its mode is {placement.mode}. Open its sessions with the "
                f"directory, which knows where its rows are."
            )
        return placement.schema

    async def validate_schema_name(self, schema_name: str) -> bool:
        """True if ``schema_name`` may be a schema of ours: needs no quotes, is neither reserved nor the server's own."""
        return is_schema_name(schema_name)

    async def get_admin_schema(self) -> str:
        """The platform's schema."""
        return self._admin_schema
