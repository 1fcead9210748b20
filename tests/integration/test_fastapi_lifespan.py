"""Which database an application uses, and that it is disposed when the application stops."""

# ruff: noqa: B008, FAST002, TC002 - FastAPI reads defaults and annotations at run time

from __future__ import annotations

from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac.database.engine import AsyncDatabase, _process_wide, get_async_db_connection
from dotmac.database.errors import ConfigurationError
from dotmac.database.fastapi import (
    RequestContextMiddleware,
    database_lifespan,
    get_db,
    lifespan,
    set_database,
)

NAME = text("SELECT current_database()")


def _application(**arguments) -> FastAPI:
    app = FastAPI(**arguments)

    @app.get("/injected")
    async def injected(db: AsyncSession = Depends(get_db)):
        return await db.scalar(NAME)

    @app.get("/opened")
    async def opened():
        async with get_db() as db:
            return await db.scalar(NAME)

    return app


async def _ask(app, path: str) -> str:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return (await client.get(path)).json()


@pytest.fixture(scope="module")
def other_name(dotmac_postgres, dotmac_database):
    name = f"{dotmac_database.name}_other"
    dotmac_postgres.create_database(name)
    yield name
    dotmac_postgres.drop_database(name)


async def test_lifespan_opens_nothing_and_disposes_at_the_end(dotmac_database):
    database = AsyncDatabase(dotmac_database.url())
    app = _application(lifespan=database_lifespan(database))
    async with app.router.lifespan_context(app):
        pool = database.engine.pool
        assert pool.checkedin() == 0
        assert await _ask(app, "/injected") == dotmac_database.name
        assert pool.checkedin() == 1
    assert pool.checkedin() == 0


async def test_the_process_wide_database_is_the_default(dotmac_database, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", dotmac_database.url())
    _process_wide._process_wide.cache_clear()
    try:
        app = _application(lifespan=lifespan)
        async with app.router.lifespan_context(app):
            assert await _ask(app, "/injected") == dotmac_database.name
            assert await _ask(app, "/opened") == dotmac_database.name
        assert await _ask(_application(), "/injected") == dotmac_database.name
        await get_async_db_connection().dispose()
    finally:
        _process_wide._process_wide.cache_clear()


async def test_lifespan_composes_with_another(dotmac_database):
    events = []

    @asynccontextmanager
    async def own(app):
        async with database_lifespan(AsyncDatabase(dotmac_database.url()))(app):
            async with get_db() as db:
                events.append(await db.scalar(NAME))
            yield {"mine": 1}
        events.append("stopped")

    app = _application(lifespan=own)
    async with app.router.lifespan_context(app) as state:
        assert state == {"mine": 1}
    assert events == [dotmac_database.name, "stopped"]


async def test_applications_keep_their_own_databases(dotmac_postgres, dotmac_database, other_name):
    one = _application(lifespan=database_lifespan(AsyncDatabase(dotmac_database.url())))
    two = _application(lifespan=database_lifespan(AsyncDatabase(dotmac_postgres.url(other_name))))
    two.add_middleware(RequestContextMiddleware)
    async with one.router.lifespan_context(one), two.router.lifespan_context(two):
        assert await _ask(one, "/injected") == dotmac_database.name
        assert await _ask(two, "/injected") == other_name
        assert await _ask(two, "/opened") == other_name
        with pytest.raises(ConfigurationError, match="2 applications"):
            await _ask(one, "/opened")
    assert not hasattr(one.state, "dotmac_database")


async def test_a_mounted_application_uses_its_parents_database(dotmac_database):
    parent, child = FastAPI(), _application()
    set_database(parent, AsyncDatabase(dotmac_database.url()))
    parent.add_middleware(RequestContextMiddleware)
    parent.mount("/child", child)
    async with parent.state.dotmac_database:
        assert await _ask(parent, "/child/injected") == dotmac_database.name


def test_a_database_and_settings_together_are_refused():
    database = AsyncDatabase("sqlite+aiosqlite://")
    with pytest.raises(TypeError):
        database_lifespan(database, database.settings)
