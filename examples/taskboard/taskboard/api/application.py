"""The application put together: database, request context, errors and routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dotmac.database.fastapi import (
    RequestContextMiddleware,
    database_lifespan,
    install_error_handlers,
    problem_response,
    set_database,
)
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from taskboard.api import health, imports, tasks, users
from taskboard.database import get_async_db_connection

if TYPE_CHECKING:
    from dotmac.database import AsyncDatabase
    from fastapi import Request
    from fastapi.requests import HTTPConnection
    from fastapi.responses import JSONResponse


_SHOWN_ERRORS = 100


def create_app(database: AsyncDatabase | None = None) -> FastAPI:
    """An application on ``database``, by default the one the settings name. It is disposed at shutdown."""
    database = database or get_async_db_connection()
    app = FastAPI(title="Taskboard", lifespan=database_lifespan(database))
    set_database(app, database)
    app.add_middleware(RequestContextMiddleware, resolve_user=_user)
    install_error_handlers(app)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    for part in (health, imports, users, tasks):
        app.include_router(part.router)
    return app


def _user(connection: HTTPConnection) -> str | None:
    """Who acts, for ``created_by``. A header is a stand-in: put your authentication here, and check the tenant with it."""
    return connection.headers.get("X-User-ID")


def _invalid(_request: Request, error: Any) -> JSONResponse:
    # Without the values that were given: they may be secrets. Not all of many: the answer would dwarf the request.
    shown = error.errors()[:_SHOWN_ERRORS]
    errors = [{key: item[key] for key in ("loc", "msg", "type")} for item in shown]
    return problem_response(422, "The request does not fit.", code="validation", errors=errors)


def _refused(_request: Request, error: Any) -> JSONResponse:
    return problem_response(error.status_code, str(error.detail), code="http", headers=error.headers)
