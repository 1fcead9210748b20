"""Errors as HTTP: one table from error to status, one body (problem details, RFC 9457), no row data.

What is not in the table stays what it is, an internal server error: a refused COMMIT among them.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from dotmac.database.context import current_context
from dotmac.database.errors import (
    ConnectionPoolError,
    ConstraintViolationError,
    DatabaseUnavailableError,
    DuplicateEntityError,
    EntityNotFoundError,
    InvalidContextError,
    InvalidCursorError,
    MissingTenantError,
    QuotaExceededError,
    TenantExistsError,
    TenantMismatchError,
    TenantNotFoundError,
    TenantSuspendedError,
    ValidationError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from fastapi import FastAPI, Request

_MEDIA_TYPE = "application/problem+json"

_STATUS: Final[dict[type[Exception], tuple[HTTPStatus, str]]] = {
    ValidationError: (HTTPStatus.UNPROCESSABLE_ENTITY, "validation"),
    InvalidCursorError: (HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_cursor"),
    EntityNotFoundError: (HTTPStatus.NOT_FOUND, "not_found"),
    ConstraintViolationError: (HTTPStatus.CONFLICT, "constraint_violation"),
    DuplicateEntityError: (HTTPStatus.CONFLICT, "duplicate"),
    MissingTenantError: (HTTPStatus.BAD_REQUEST, "missing_tenant"),
    TenantMismatchError: (HTTPStatus.FORBIDDEN, "tenant_mismatch"),
    InvalidContextError: (HTTPStatus.UNAUTHORIZED, "invalid_context"),
    TenantNotFoundError: (HTTPStatus.NOT_FOUND, "tenant_not_found"),
    TenantSuspendedError: (HTTPStatus.FORBIDDEN, "tenant_suspended"),
    TenantExistsError: (HTTPStatus.CONFLICT, "tenant_exists"),
    QuotaExceededError: (HTTPStatus.FORBIDDEN, "quota_exceeded"),
    DatabaseUnavailableError: (HTTPStatus.SERVICE_UNAVAILABLE, "database_unavailable"),
    ConnectionPoolError: (HTTPStatus.SERVICE_UNAVAILABLE, "database_busy"),
    PoolTimeoutError: (HTTPStatus.SERVICE_UNAVAILABLE, "database_busy"),
}


class RequestRefusedError(HTTPException):
    """A request whose tenant or user is missing, malformed, given twice or contradicted.

    `install_error_handlers` answers it with problem details, FastAPI alone with its usual ``{"detail": …}``.
    """


def install_error_handlers(app: FastAPI, *, retry_after_seconds: int = 1) -> None:
    """Answer this library's errors with problem details.

    ========================================================  ======
    `ValidationError`, `InvalidCursorError`                    422
    `EntityNotFoundError`                                      404
    `DuplicateEntityError`, `ConstraintViolationError`         409
    `TenantExistsError`                                        409
    `MissingTenantError`                                       400
    `InvalidContextError`                                      401
    `TenantMismatchError`, `TenantSuspendedError`,             403
    `QuotaExceededError`
    `TenantNotFoundError`                                      404
    `RequestRefusedError` (of the tenant dependencies)         its own
    `DatabaseUnavailableError`, `ConnectionPoolError`,         503
    SQLAlchemy's pool timeout
    ========================================================  ======

    A quota of connections is 429. That and a 503 carry ``Retry-After: retry_after_seconds``. Anything else stays a 500.
    """

    def answer(_request: Request, error: Exception) -> JSONResponse:
        status, code = next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
        if getattr(error, "quota", None) == "connections":  # free again in a moment; rows are not
            status = HTTPStatus.TOO_MANY_REQUESTS
        is_passing = status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}
        return problem_response(
            status,
            _detail(error, code),
            code=code,
            headers={"Retry-After": str(retry_after_seconds)} if is_passing else None,
            model=getattr(error, "model", None),
            field=getattr(error, "field", None),
            constraint=getattr(error, "constraint", None),
        )

    def answer_refusal(_request: Request, error: Exception) -> JSONResponse:
        status, detail = getattr(error, "status_code", 400), getattr(error, "detail", "")
        return problem_response(status, str(detail), code="request_context")

    for kind in _STATUS:
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(RequestRefusedError, answer_refusal)


def problem_response(
    status: int, detail: str, *, code: str, headers: Mapping[str, str] | None = None, **extensions: Any
) -> JSONResponse:
    """A problem-details response; ``extensions`` that are None are left out, the request's id is added."""
    extensions.setdefault("request_id", current_context().request_id)
    content = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": int(status),
        "detail": detail,
        "code": code,
        **{name: value for name, value in extensions.items() if value is not None},
    }
    return JSONResponse(content, status, headers=dict(headers) if headers else None, media_type=_MEDIA_TYPE)


def _detail(error: Exception, code: str) -> str:
    """What a client may read: not the advice our messages give to the application's author."""
    if code in {"validation", "invalid_cursor"}:
        return str(error)
    model = getattr(error, "model", "row")
    return {
        "not_found": f"There is no such {model}.",
        "constraint_violation": f"The {model} breaks a rule of the database.",
        "duplicate": f"A {model} with these values exists already.",
        "missing_tenant": "The request names no tenant.",
        "tenant_mismatch": "The request names another tenant than the one it belongs to.",
        "tenant_not_found": "There is no such tenant.",
        "tenant_suspended": "The tenant is not served at present.",
        "tenant_exists": "A tenant with this name exists already.",
        "quota_exceeded": "A quota of the tenant is used up.",
        "invalid_context": "The request does not say in a trustworthy way for whom it works.",
        "database_unavailable": "The database does not answer. Try again later.",
        "database_busy": "The database is busy. Try again later.",
    }[code]
