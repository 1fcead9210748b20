"""A database in a FastAPI application: sessions, lifespan, tenant, query parameters and errors as HTTP.

Sessions commit before the response is sent. See ``docs/fastapi.md`` for what each part promises.
"""

from __future__ import annotations

from dotmac.database.fastapi._context import (
    RequestContextDependency,
    RequestContextMiddleware,
    require_tenant,
    tenant_from_request,
)
from dotmac.database.fastapi._databases import database_lifespan, lifespan, set_database
from dotmac.database.fastapi._health import health_router
from dotmac.database.fastapi._problems import RequestRefusedError, install_error_handlers, problem_response
from dotmac.database.fastapi._query_options import query_options
from dotmac.database.fastapi._sessions import get_db, get_read_session, get_write_session
from dotmac.database.fastapi._tenant_sources import (
    agreed_tenant,
    claim_tenant,
    header_tenant,
    path_parameter_tenant,
    path_tenant,
    subdomain_tenant,
)

__all__ = [
    "RequestContextDependency",
    "RequestContextMiddleware",
    "RequestRefusedError",
    "agreed_tenant",
    "claim_tenant",
    "database_lifespan",
    "get_db",
    "get_read_session",
    "get_write_session",
    "header_tenant",
    "health_router",
    "install_error_handlers",
    "lifespan",
    "path_parameter_tenant",
    "path_tenant",
    "problem_response",
    "query_options",
    "require_tenant",
    "set_database",
    "subdomain_tenant",
    "tenant_from_request",
]
