"""Bind a session that exists already: `set_rls_context`, `set_schema_search_path`, `clear_rls_context`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dotmac.database.context import RequestContext, TenantId, current_context
from dotmac.database.tenancy._binding import bind, bind_ambient, bound_context
from dotmac.database.tenancy._guard import switch
from dotmac.database.tenancy._names import check_schema_name, schema_name
from dotmac.database.tenancy._placement import IsolationMode, Placement

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession


async def set_rls_context(
    session: AsyncSession,
    tenant_id: object,
    user_id: object | None = None,
    client_ip: str | None = None,
    request_id: str | None = None,
) -> None:
    """Bind ``session`` to a tenant: from its next statement on it sees that tenant's rows, and no others.

    It stays bound for its life, over commits and rollbacks too. No round trip where no transaction has begun yet, else one.
    Any session will do, also one of a plain ``async_sessionmaker``. Sessions that are opened inside the block of this one
    (`get_db`, `with_async_session`, `create_session`) and name no tenant of their own serve the same one.

    Raises:
        TenantError: The session serves another tenant, or works across tenants.
        ValueError: ``tenant_id`` is no `TenantId`.
    """
    known = bound_context(session)
    context = RequestContext(
        tenant_id=TenantId(tenant_id),
        user_id=known.user_id if user_id is None else str(user_id),
        request_id=request_id or known.request_id,
        client_ip=client_ip or known.client_ip,
    )
    bind(session, context)
    bind_ambient(session, context)


async def set_schema_search_path(
    session: AsyncSession,
    tenant_id: object,
    *,
    schema: str | None = None,
    shared_schema: str | None = None,
) -> None:
    """Bind ``session`` to a tenant that has a schema of its own; every transaction's ``search_path`` is that schema.

    Args:
        session: Any session on PostgreSQL.
        tenant_id: The tenant, or its slug.
        schema: Its schema; by default ``tenant_<slug>``.
        shared_schema: The schema of tables that all tenants share, searched after the tenant's; by default none is:
            a table that is missing in the tenant's schema is an error, never another one of that name.

    Raises:
        TenantError: The session serves another tenant or schema.
        SchemaError: No schema can have that name.
    """
    own = schema_name(str(tenant_id)) if schema is None else check_schema_name(schema)
    known = bound_context(session)
    context = (
        known
        if known.tenant_id == tenant_id
        else replace(_unless_unscoped(known), tenant_id=TenantId(tenant_id))
    )
    bind(
        session,
        context,
        Placement(TenantId(tenant_id), IsolationMode.SCHEMA, schema=own, shared_schema=shared_schema),
    )


async def clear_rls_context(session: AsyncSession) -> None:
    """Flush ``session``, let it forget every entity, and unbind it. Optional: a binding ends with its session.

    Afterwards it serves no tenant: models of tenants are refused until it is bound again.
    """
    await session.flush()
    switch(session.sync_session, RequestContext())
    bind_ambient(session, RequestContext())


def _unless_unscoped(context: RequestContext) -> RequestContext:
    return context if not context.is_unscoped else current_context()
