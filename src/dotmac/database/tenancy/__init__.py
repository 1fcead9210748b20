"""Which rows work may see: the context a session is bound to, and the scope that follows from it."""

from dotmac.database.tenancy._binding import SESSION_KEY, bound_context
from dotmac.database.tenancy._scope import Scope, require_tenant, scope_for, tenant_value, visible

__all__ = ["SESSION_KEY", "Scope", "bound_context", "require_tenant", "scope_for", "tenant_value", "visible"]
