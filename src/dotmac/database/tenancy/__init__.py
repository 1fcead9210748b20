"""Whose rows are whose: where they live, what a session is bound to, and what follows from it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dotmac.database.tenancy._binding import (
    PLACEMENT_KEY,
    SESSION_KEY,
    ambient_block,
    bind,
    bind_tenant,
    bound_context,
)
from dotmac.database.tenancy._guard import switch
from dotmac.database.tenancy._placement import (
    BlockingPlacementResolver,
    IsolationMode,
    Placement,
    PlacementResolver,
)
from dotmac.database.tenancy._policies import (
    disable_row_level_security,
    drop_row_level_security_sql,
    enable_row_level_security,
    literal_sql,
    row_level_security_sql,
    secure_sql,
    unsecure_sql,
)
from dotmac.database.tenancy._roles import (
    RoleFacts,
    RolePlan,
    RoleStatement,
    role_facts,
    role_statements,
)
from dotmac.database.tenancy._rules import (
    PERMISSIVE_POLICY,
    RESTRICTIVE_POLICY,
    OwnerStep,
    TenantRule,
    rule_of,
)
from dotmac.database.tenancy._scope import Scope, require_tenant, scope_for, tenant_value, visible
from dotmac.database.tenancy._session_context import (
    TENANT_SETTING,
    begin_sql,
    quoted_identifier,
    quoted_literal,
)
from dotmac.database.tenancy._tables import TENANT_COLUMN, Owner, TableTenancy, divided_tables, tenancy_of
from dotmac.database.tenancy._verified import (
    VERIFY_SQL,
    bound_by_the_server,
    secured,
    verified,
    verify_parameters,
)

if TYPE_CHECKING:
    from dotmac.database.tenancy._directory import TenantDirectory
    from dotmac.database.tenancy._directory_blocking import BlockingTenantDirectory
    from dotmac.database.tenancy._directory_options import DirectoryOptions
    from dotmac.database.tenancy._names import (
        check_schema_name,
        check_slug,
        check_tenant_id,
        is_schema_name,
        schema_name,
    )
    from dotmac.database.tenancy._quotas import Quotas
    from dotmac.database.tenancy._rls_context import (
        clear_rls_context,
        set_rls_context,
        set_schema_search_path,
    )
    from dotmac.database.tenancy._row_quotas import quota_error, raise_quota_errors
    from dotmac.database.tenancy._tenant import Tenant, TenantStatus

# What only few programs need, imported on first use.
_LAZY = {
    "BlockingTenantDirectory": "_directory_blocking",
    "check_schema_name": "_names",
    "clear_rls_context": "_rls_context",
    "set_rls_context": "_rls_context",
    "set_schema_search_path": "_rls_context",
    "check_slug": "_names",
    "check_tenant_id": "_names",
    "is_schema_name": "_names",
    "quota_error": "_row_quotas",
    "raise_quota_errors": "_row_quotas",
    "schema_name": "_names",
    "DirectoryOptions": "_directory_options",
    "Quotas": "_quotas",
    "Tenant": "_tenant",
    "TenantDirectory": "_directory",
    "TenantStatus": "_tenant",
}

__all__ = [
    "PERMISSIVE_POLICY",
    "PLACEMENT_KEY",
    "RESTRICTIVE_POLICY",
    "SESSION_KEY",
    "TENANT_COLUMN",
    "TENANT_SETTING",
    "VERIFY_SQL",
    "BlockingPlacementResolver",
    "BlockingTenantDirectory",
    "DirectoryOptions",
    "IsolationMode",
    "Owner",
    "OwnerStep",
    "Placement",
    "PlacementResolver",
    "Quotas",
    "RoleFacts",
    "RolePlan",
    "RoleStatement",
    "Scope",
    "TableTenancy",
    "Tenant",
    "TenantDirectory",
    "TenantRule",
    "TenantStatus",
    "ambient_block",
    "begin_sql",
    "bind",
    "bind_tenant",
    "bound_by_the_server",
    "bound_context",
    "check_schema_name",
    "check_slug",
    "check_tenant_id",
    "clear_rls_context",
    "disable_row_level_security",
    "divided_tables",
    "drop_row_level_security_sql",
    "enable_row_level_security",
    "is_schema_name",
    "literal_sql",
    "quota_error",
    "quoted_identifier",
    "quoted_literal",
    "raise_quota_errors",
    "require_tenant",
    "role_facts",
    "role_statements",
    "row_level_security_sql",
    "rule_of",
    "schema_name",
    "scope_for",
    "secure_sql",
    "secured",
    "set_rls_context",
    "set_schema_search_path",
    "switch",
    "tenancy_of",
    "tenant_value",
    "unsecure_sql",
    "verified",
    "verify_parameters",
    "visible",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
