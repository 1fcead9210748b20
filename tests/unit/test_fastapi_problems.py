"""Errors as HTTP: the status of each, and that no row data gets out."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from dotmac.database import errors
from dotmac.database.fastapi import RequestContextMiddleware, install_error_handlers

TABLE = [
    (errors.ValidationError("Task.rank does not fit.", model="Task", field="rank"), 422, "validation"),
    (errors.InvalidCursorError("The cursor is damaged."), 422, "invalid_cursor"),
    (errors.EntityNotFoundError("Task", "s3cret"), 404, "not_found"),
    (errors.DuplicateEntityError("Task", "uq_task_title"), 409, "duplicate"),
    (
        errors.ConstraintViolationError("s3cret", model="Task", constraint="ck_rank", kind="check"),
        409,
        "constraint_violation",
    ),
    (errors.MissingTenantError("Task"), 400, "missing_tenant"),
    (errors.TenantMismatchError("Task"), 403, "tenant_mismatch"),
    (errors.InvalidContextError("s3cret", reason="signature"), 401, "invalid_context"),
    (errors.TenantNotFoundError("s3cret"), 404, "tenant_not_found"),
    (errors.TenantSuspendedError("s3cret"), 403, "tenant_suspended"),
    (errors.TenantExistsError("s3cret", tenant="s3cret"), 409, "tenant_exists"),
    (
        errors.QuotaExceededError(tenant="s3cret", quota="rows", limit=9, table="tasks", hint=""),
        403,
        "quota_exceeded",
    ),
    (
        errors.QuotaExceededError(tenant="s3cret", quota="connections", limit=9, hint=""),
        429,
        "quota_exceeded",
    ),
    (
        errors.DatabaseUnavailableError("s3cret host", waited_seconds=1, attempts=2),
        503,
        "database_unavailable",
    ),
    (errors.ConnectionPoolError("s3cret"), 503, "database_busy"),
    (PoolTimeoutError("s3cret"), 503, "database_busy"),
]


async def _answer_to(error: Exception) -> httpx.Response:
    app = FastAPI()
    app.add_middleware(RequestContextMiddleware)
    install_error_handlers(app, retry_after_seconds=7)

    @app.get("/")
    async def fail():
        raise error

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get("/", headers={"X-Request-ID": "r-1"})


@pytest.mark.parametrize(
    ("error", "status", "code"), TABLE, ids=[f"{code}-{status}" for _, status, code in TABLE]
)
async def test_each_error_has_its_status_and_problem_body(error, status, code):
    answer = await _answer_to(error)
    body = answer.json()
    assert answer.status_code == body["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert (body["type"], body["code"], body["request_id"]) == ("about:blank", code, "r-1")
    assert answer.headers.get("Retry-After") == ("7" if status in {429, 503} else None)
    assert "s3cret" not in answer.text


async def test_a_constraint_and_a_field_are_named():
    assert (await _answer_to(errors.DuplicateEntityError("Task", "uq"))).json()["constraint"] == "uq"
    assert (await _answer_to(errors.ValidationError("x", field="rank"))).json()["field"] == "rank"


@pytest.mark.parametrize(
    "error", [errors.CommitFailedError("x"), errors.ConfigurationError("x"), ValueError("x")]
)
async def test_other_errors_stay_internal(error):
    assert (await _answer_to(error)).status_code == 500
