"""Probes over HTTP: one query for a storm of them, and never a word about where the database is."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event

from dotmac.database import AsyncDatabase, Database, DatabaseHealthChecker, HealthStatus
from dotmac.database.engine import create_async_engine
from dotmac.database.fastapi import database_lifespan, health_router, set_database

PATHS = ["/livez", "/readyz", "/health"]
QUICK = {"connection_timeout": 0.2, "query_timeout": 0.2}


def client(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def application(*arguments, **keywords):
    app = FastAPI()
    app.include_router(health_router(*arguments, **keywords))
    return app


@pytest.fixture
def dead():
    """A database whose server does not exist."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return AsyncDatabase(f"postgresql+asyncpg://shopkeeper:hidden-word@127.0.0.1:{port}/shop")


async def test_a_live_database_passes_everywhere(dotmac_database):
    app = FastAPI(lifespan=database_lifespan(AsyncDatabase(dotmac_database.url())))
    app.include_router(health_router(prefix="/internal"))
    async with app.router.lifespan_context(app), client(app) as http:
        for path in PATHS:
            answer = await http.get(f"/internal{path}")
            assert (answer.status_code, answer.json()["status"]) == (200, "pass")
            assert answer.headers["content-type"] == "application/health+json"
            assert (await http.head(f"/internal{path}")).status_code == 200
    checks = answer.json()["checks"]
    assert list(checks) == [
        "database:connectivity",
        "database:query",
        "database:responseTime",
        "database:utilization",
    ]
    assert checks["database:responseTime"][0]["observedUnit"] == "ms"
    assert app.openapi()["paths"] == {}


async def test_a_dead_database_fails_and_the_process_lives(dead):
    async with dead, client(application(dead)) as http:
        answers = {path: await http.get(path) for path in PATHS}
    assert [answers[path].status_code for path in PATHS] == [200, 503, 503]
    assert answers["/health"].json()["output"] == "The server cannot be reached."
    for answer in answers.values():
        for secret in ("hidden-word", "shopkeeper", "127.0.0.1", dead.settings.url):
            assert secret not in answer.text


async def test_livez_touches_no_database(dead):
    opened = []
    async with dead, client(application(dead)) as http:
        event.listen(dead.engine.sync_engine, "do_connect", lambda *_: opened.append(1))
        assert (await http.get("/livez")).status_code == 200
        assert opened == []


async def test_a_storm_of_probes_is_one_check(dotmac_database):
    calls = []
    checker = DatabaseHealthChecker()
    checker.add_check("counted", lambda _target: calls.append(1))
    async with (
        AsyncDatabase(dotmac_database.url()) as database,
        client(application(database, checker, cache_seconds=60)) as http,
    ):
        answers = await asyncio.gather(*(http.get(PATHS[turn % 2 + 1]) for turn in range(200)))
    assert {answer.status_code for answer in answers} == {200}
    assert calls == [1]


async def test_a_probe_that_leaves_does_not_end_the_check_of_the_others(dotmac_database):
    started, release = asyncio.Event(), asyncio.Event()

    async def wait(_target):
        started.set()
        await release.wait()

    checker = DatabaseHealthChecker()
    checker.add_check("waits", wait)
    async with (
        AsyncDatabase(dotmac_database.url()) as database,
        client(application(database, checker)) as http,
    ):
        leaving, staying = (asyncio.create_task(http.get("/readyz")) for _ in range(2))
        await started.wait()
        leaving.cancel()
        release.set()
        assert (await staying).status_code == 200
        with pytest.raises(asyncio.CancelledError):
            await leaving


@pytest.mark.parametrize(
    ("status", "code", "word"),
    [
        (HealthStatus.DEGRADED, 200, "warn"),
        (HealthStatus.UNKNOWN, 503, "fail"),
        (HealthStatus.UNHEALTHY, 503, "fail"),
    ],
)
async def test_degraded_serves_and_worse_does_not(dotmac_database, status, code, word):
    checker = DatabaseHealthChecker()
    checker.add_check("mine", lambda _target: (status, "postgresql://me:hidden-word@db/shop"))
    async with (
        AsyncDatabase(dotmac_database.url()) as database,
        client(application(database, checker)) as http,
    ):
        for path in PATHS[1:]:
            answer = await http.get(path)
            assert (answer.status_code, answer.json()["status"]) == (code, word)
        assert "hidden-word" not in answer.text
        assert answer.json()["checks"]["mine"][0]["status"] == word


async def test_a_silent_server_is_not_ready_at_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+asyncpg://me:hidden-word@127.0.0.1:{silent.getsockname()[1]}/shop"
        async with (
            AsyncDatabase(url) as database,
            client(application(database, DatabaseHealthChecker(**QUICK))) as http,
        ):
            async with asyncio.timeout(5):
                answers = await asyncio.gather(*(http.get("/readyz") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {503}


async def test_engines_and_blocking_databases_are_probed_too(dotmac_database):
    engine = create_async_engine(dotmac_database.url())
    async with client(application(engine)) as http:
        assert (await http.get("/readyz")).status_code == 200
    await engine.dispose()
    with Database(dotmac_database.url("psycopg")) as database:
        async with client(application(database)) as http:
            assert (await http.get("/readyz")).status_code == 200


async def test_an_application_without_a_usable_database_is_not_ready():
    app = application()
    set_database(app, AsyncDatabase("postgresql+asyncpg://me:hidden-word@/shop", pool_size="many"))
    async with client(app) as http:
        answer = await http.get("/health")
    assert answer.status_code == 503
    assert "hidden-word" not in answer.text


def test_nonsense_is_refused():
    with pytest.raises(TypeError, match="checks an AsyncDatabase"):
        health_router("postgresql://me@db/shop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="negative"):
        health_router(cache_seconds=-1)
