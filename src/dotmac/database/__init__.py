"""The multi-tenant database layer that a Python SaaS never outgrows.

Names are imported on first use: ``import dotmac.database`` costs what ``sqlalchemy.orm`` costs, and pulls in no extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dotmac.database.context import (
        ContextExecutor,
        RequestContext,
        TenantId,
        carry,
        context_from_headers,
        context_headers,
        current_context,
        unscoped,
        unscoped_uses,
        use_context,
        validated_tenant,
    )
    from dotmac.database.engine import (
        AsyncDatabase,
        Database,
        create_async_engine,
        create_engine,
        create_session_factory,
        get_async_db_connection,
        get_session,
        wait_until_ready,
        wait_until_ready_sync,
        with_async_session,
        with_session,
    )
    from dotmac.database.fastapi import get_db, get_read_session, get_write_session
    from dotmac.database.health import DatabaseHealthChecker, HealthCheckResult, HealthStatus
    from dotmac.database.models import (
        AuditMixin,
        Base,
        BaseModel,
        EncryptedString,
        SoftDeleteMixin,
        TenantAwareMixin,
        TenantModel,
        UTCDateTime,
        live_unique,
        tenant_foreign_key,
        tenant_unique,
        utc_now,
        uuid7,
    )
    from dotmac.database.models import TenantAwareMixin as TenantMixin
    from dotmac.database.query import (
        CountMode,
        CursorPaginationParams,
        CursorPaginationResult,
        FilterGroup,
        FilterOperator,
        NullsOrder,
        PaginationParams,
        PaginationResult,
        QueryFilter,
        QueryOptions,
        SortField,
        SortOrder,
    )
    from dotmac.database.repository import (
        AsyncRepository,
        AsyncTenantRepository,
        BaseRepository,
        BaseTenantRepository,
        DatabasePaginator,
        PaginationHelper,
        PerformancePaginator,
        create_async_repository,
        create_repository,
    )
    from dotmac.database.settings import DatabaseSettings
    from dotmac.database.tenancy import clear_rls_context, set_rls_context, set_schema_search_path
    from dotmac.database.transactions import (
        CircuitBreaker,
        DatabaseTransaction,
        RetryPolicy,
        RetryStrategy,
        TransactionManager,
        with_retry,
    )

_ROOMS = {
    "context": "ContextExecutor RequestContext TenantId carry context_from_headers context_headers current_context "
    "unscoped unscoped_uses use_context validated_tenant",
    "engine": "AsyncDatabase Database create_async_engine create_engine create_session_factory "
    "get_async_db_connection get_session wait_until_ready wait_until_ready_sync with_async_session with_session",
    "fastapi": "get_db get_read_session get_write_session",
    "health": "DatabaseHealthChecker HealthCheckResult HealthStatus",
    "models": "AuditMixin Base BaseModel EncryptedString SoftDeleteMixin TenantAwareMixin TenantModel UTCDateTime "
    "live_unique tenant_foreign_key tenant_unique utc_now uuid7",
    "query": "CountMode CursorPaginationParams CursorPaginationResult FilterGroup FilterOperator NullsOrder "
    "PaginationParams PaginationResult QueryFilter QueryOptions SortField SortOrder",
    "repository": "AsyncRepository AsyncTenantRepository BaseRepository BaseTenantRepository DatabasePaginator "
    "PaginationHelper PerformancePaginator create_async_repository create_repository",
    "settings": "DatabaseSettings",
    "tenancy": "clear_rls_context set_rls_context set_schema_search_path",
    "transactions": "CircuitBreaker DatabaseTransaction RetryPolicy RetryStrategy TransactionManager with_retry",
}
_HOMES = {name: (room, name) for room, names in _ROOMS.items() for name in names.split()}
_HOMES["TenantMixin"] = ("models", "TenantAwareMixin")

__all__ = [
    "AsyncDatabase",
    "AsyncRepository",
    "AsyncTenantRepository",
    "AuditMixin",
    "Base",
    "BaseModel",
    "BaseRepository",
    "BaseTenantRepository",
    "CircuitBreaker",
    "ContextExecutor",
    "CountMode",
    "CursorPaginationParams",
    "CursorPaginationResult",
    "Database",
    "DatabaseHealthChecker",
    "DatabasePaginator",
    "DatabaseSettings",
    "DatabaseTransaction",
    "EncryptedString",
    "FilterGroup",
    "FilterOperator",
    "HealthCheckResult",
    "HealthStatus",
    "NullsOrder",
    "PaginationHelper",
    "PaginationParams",
    "PaginationResult",
    "PerformancePaginator",
    "QueryFilter",
    "QueryOptions",
    "RequestContext",
    "RetryPolicy",
    "RetryStrategy",
    "SoftDeleteMixin",
    "SortField",
    "SortOrder",
    "TenantAwareMixin",
    "TenantId",
    "TenantMixin",
    "TenantModel",
    "TransactionManager",
    "UTCDateTime",
    "carry",
    "clear_rls_context",
    "context_from_headers",
    "context_headers",
    "create_async_engine",
    "create_async_repository",
    "create_engine",
    "create_repository",
    "create_session_factory",
    "current_context",
    "get_async_db_connection",
    "get_db",
    "get_read_session",
    "get_session",
    "get_write_session",
    "live_unique",
    "set_rls_context",
    "set_schema_search_path",
    "tenant_foreign_key",
    "tenant_unique",
    "unscoped",
    "unscoped_uses",
    "use_context",
    "utc_now",
    "uuid7",
    "validated_tenant",
    "wait_until_ready",
    "wait_until_ready_sync",
    "with_async_session",
    "with_retry",
    "with_session",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room, attribute = _HOMES[name]
    if room == "context":
        import_module(f"{__name__}.tenancy")  # the guard obeys contexts, and comes with them
    value = getattr(import_module(f"{__name__}.{room}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
