"""Whose rows are whose: where they live, what a session is bound to, and what follows from it."""

from dotmac.database.tenancy._binding import SESSION_KEY, bound_context
from dotmac.database.tenancy._placement import IsolationMode, Placement, PlacementResolver
from dotmac.database.tenancy._scope import Scope, require_tenant, scope_for, tenant_value, visible
from dotmac.database.tenancy._session_context import (
    TENANT_SETTING,
    begin_sql,
    quoted_identifier,
    quoted_literal,
)
from dotmac.database.tenancy._tables import Owner, TableTenancy, divided_tables, tenancy_of

__all__ = [
    "SESSION_KEY",
    "TENANT_SETTING",
    "IsolationMode",
    "Owner",
    "Placement",
    "PlacementResolver",
    "Scope",
    "TableTenancy",
    "begin_sql",
    "bound_context",
    "divided_tables",
    "quoted_identifier",
    "quoted_literal",
    "require_tenant",
    "scope_for",
    "tenancy_of",
    "tenant_value",
    "visible",
]
