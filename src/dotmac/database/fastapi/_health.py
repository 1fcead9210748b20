"""Probes for whoever runs the application: is it alive, can it serve, and what ails it (draft-inadarei-api-health-check).

Everybody who asks within a second gets the same answer, and only one check runs at a time: a storm of probes is one
query. No answer tells where the database is or who may use it.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from fastapi.requests import Request  # noqa: TC002 - FastAPI reads annotations at run time
from fastapi.responses import JSONResponse
from sqlalchemy.engine import Engine

from dotmac.database.engine import AsyncDatabase, Database
from dotmac.database.fastapi._databases import database_for
from dotmac.database.health import DatabaseHealthChecker, HealthCheckResult, HealthStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    Checkable = AsyncDatabase | Database | AsyncEngine | Engine

_MEDIA_TYPE = "application/health+json"
_STATUS = {
    HealthStatus.HEALTHY: "pass",
    HealthStatus.DEGRADED: "warn",
    HealthStatus.UNHEALTHY: "fail",
    HealthStatus.UNKNOWN: "fail",
}
# A probe is usually given up after some seconds; its answer should come before.
_CONNECTION_SECONDS = 2.0
_QUERY_SECONDS = 2.0


def health_router(
    database: Checkable | None = None,
    checker: DatabaseHealthChecker | None = None,
    prefix: str = "",
    *,
    cache_seconds: float = 1.0,
) -> APIRouter:
    """Routes ``/livez``, ``/readyz`` and ``/health``, under ``prefix``; none of them is in the OpenAPI schema.

    ===========  ==============================================================  =======================
    ``/livez``   the process answers; never touches the database                 200
    ``/readyz``  requests can be served: the database is healthy or degraded     200, else 503
    ``/health``  the same, with every check, as ``application/health+json``      200, else 503
    ===========  ==============================================================  =======================

    Args:
        database: What to check: an `AsyncDatabase`, a `Database` or an engine. By default the application's own.
        checker: By default one that ends within 4 s.
        prefix: In front of each path, such as ``/internal``.
        cache_seconds: How long an answer is given again; 0 to check each time, one check at a time still.

    Raises:
        TypeError: ``database`` is something else.
        ValueError: ``cache_seconds`` is negative.
    """
    if not (
        database is None
        or isinstance(database, AsyncDatabase | Database | Engine)
        or hasattr(database, "sync_engine")
    ):
        raise TypeError(
            f"health_router() checks an AsyncDatabase, a Database or an engine, not {type(database).__name__}."
        )
    if not cache_seconds >= 0:
        raise ValueError(f"cache_seconds must not be negative, and it is {cache_seconds:g}.")
    shared = _SharedChecks(
        checker or DatabaseHealthChecker(_CONNECTION_SECONDS, _QUERY_SECONDS), cache_seconds
    )
    router = APIRouter(prefix=prefix, include_in_schema=False)

    async def livez() -> JSONResponse:
        return _response({"status": "pass"}, HTTPStatus.OK)

    async def readyz(request: Request) -> JSONResponse:
        result = await shared.result(lambda: database or database_for(request.scope))
        return _response({"status": _STATUS[result.status]}, _code(result))

    async def health(request: Request) -> JSONResponse:
        result = await shared.result(lambda: database or database_for(request.scope))
        return _response(_document(result), _code(result))

    for path, endpoint in (("/livez", livez), ("/readyz", readyz), ("/health", health)):
        router.add_api_route(path, endpoint, methods=["GET", "HEAD"], response_model=None)
    return router


class _SharedChecks:
    """One check at a time and one answer per while, for each event loop and database."""

    def __init__(self, checker: DatabaseHealthChecker, cache_seconds: float) -> None:
        self._checker = checker
        self._cache_seconds = cache_seconds
        self._per_loop: dict[asyncio.AbstractEventLoop, weakref.WeakKeyDictionary[Any, _Answer]] = {}

    async def result(self, find: Callable[[], Checkable]) -> HealthCheckResult:
        try:
            target = find()
        except Exception as error:  # noqa: BLE001 - a probe answers, also where nothing is configured
            return _no_check(error)
        loop = asyncio.get_running_loop()
        if loop not in self._per_loop:
            for ended in [known for known in self._per_loop if known.is_closed()]:
                del self._per_loop[ended]
            self._per_loop[loop] = weakref.WeakKeyDictionary()
        answers = self._per_loop[loop]
        answer = answers.get(target)
        if answer is None or answer.age() > self._cache_seconds:
            answer = answers[target] = _Answer(asyncio.ensure_future(self._check(target)))
        # Whoever asks may leave; the check goes on for the others, and has a deadline of its own.
        return await asyncio.shield(answer.task)

    async def _check(self, target: Checkable) -> HealthCheckResult:
        try:
            if isinstance(target, Database | Engine):
                return await asyncio.to_thread(self._checker.check_health, target)
            return await self._checker.check_health(target)
        except Exception as error:  # noqa: BLE001 - a probe answers, whatever is wrong
            return _no_check(error)


class _Answer:
    """A check under way, or its result and when it came."""

    def __init__(self, task: asyncio.Task[HealthCheckResult]) -> None:
        self.task = task
        self._came: float | None = None
        task.add_done_callback(self._note)

    def _note(self, _task: asyncio.Task[HealthCheckResult]) -> None:
        self._came = time.monotonic()

    def age(self) -> float:
        """Seconds since the result came; 0 while it is awaited, and for ever once the check was cancelled."""
        if self._came is None:
            return 0.0
        return float("inf") if self.task.cancelled() else time.monotonic() - self._came


def _no_check(error: Exception) -> HealthCheckResult:
    return HealthCheckResult(
        HealthStatus.UNHEALTHY, f"The database could not be checked: {type(error).__name__}."
    )


def _code(result: HealthCheckResult) -> HTTPStatus:
    return HTTPStatus.OK if result.status.is_serving else HTTPStatus.SERVICE_UNAVAILABLE


def _response(content: dict[str, Any], code: HTTPStatus) -> JSONResponse:
    return JSONResponse(content, code, headers={"Cache-Control": "no-store"}, media_type=_MEDIA_TYPE)


def _document(result: HealthCheckResult) -> dict[str, Any]:
    document: dict[str, Any] = {"status": _STATUS[result.status], "description": "health of the database"}
    if not result.is_healthy:
        document["output"] = result.message
    document["checks"] = dict(_entry(check) for check in result.checks)
    return document


def _entry(check: HealthCheckResult) -> tuple[str, list[dict[str, Any]]]:
    entry: dict[str, Any] = {"status": _STATUS[check.status], "time": check.checked_at.isoformat()}
    if not check.is_healthy:
        entry["output"] = check.message
    if check.name not in _MEASUREMENTS:
        return check.name, [entry]
    key, fact, unit = _MEASUREMENTS[check.name]
    entry["componentType"] = "datastore"
    if fact in check.details:
        entry |= {"observedValue": check.details[fact], "observedUnit": unit}
    if "in_recovery" in check.details:
        entry |= {name: check.details[name] for name in ("in_recovery", "read_only")}
    return f"database:{key}", [entry]


# Per check: the draft's name of what is measured, the fact that tells it, and its unit.
_MEASUREMENTS = {
    "connectivity": ("connectivity", "connect_ms", "ms"),
    "query": ("query", "", ""),
    "performance": ("responseTime", "query_ms", "ms"),
    "pool": ("utilization", "saturation", "share of 1"),
}
