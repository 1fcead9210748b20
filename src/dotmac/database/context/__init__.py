"""On whose behalf work is done: one immutable context, carried into tasks, threads and jobs, never process-wide."""

from dotmac.database.context._carry import ContextExecutor, carry
from dotmac.database.context._current import current_context, use_context
from dotmac.database.context._headers import CONTEXT_HEADER, context_from_headers, context_headers
from dotmac.database.context._request import RequestContext, TenantId, validated_tenant
from dotmac.database.context._unscoped import unscoped, unscoped_uses

__all__ = [
    "CONTEXT_HEADER",
    "ContextExecutor",
    "RequestContext",
    "TenantId",
    "carry",
    "context_from_headers",
    "context_headers",
    "current_context",
    "unscoped",
    "unscoped_uses",
    "use_context",
    "validated_tenant",
]
