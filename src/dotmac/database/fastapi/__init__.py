"""A database in a FastAPI application: sessions, lifespan, tenant, query parameters and errors as HTTP.

Sessions commit before the response is sent. See ``docs/fastapi.md`` for what each part promises.
"""

from __future__ import annotations

from dotmac.database.fastapi._context import (
    RequestContextDependency,
    RequestContextMiddleware,
    header_tenant,
    tenant_from_request,
)
from dotmac.database.fastapi._databases import database_lifespan, lifespan, set_database
from dotmac.database.fastapi._health import health_router
from dotmac.database.fastapi._problems import install_error_handlers, problem_response
from dotmac.database.fastapi._query_options import query_options
from dotmac.database.fastapi._sessions import get_db, get_read_session, get_write_session

__all__ = [
    "RequestContextDependency",
    "RequestContextMiddleware",
    "database_lifespan",
    "get_db",
    "get_read_session",
    "get_write_session",
    "header_tenant",
    "health_router",
    "install_error_handlers",
    "lifespan",
    "problem_response",
    "query_options",
    "set_database",
    "tenant_from_request",
]
