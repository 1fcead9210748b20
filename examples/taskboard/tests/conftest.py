"""The application on a real PostgreSQL, migrated as in production."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from dotmac.database import RequestContext, use_context
from dotmac.database.alembic import upgrade
from sqlalchemy import pool, text
from sqlalchemy.ext.asyncio import AsyncSession

import taskboard
from taskboard.api import create_app
from taskboard.database import TaskboardDatabase
from taskboard.database.models import Model, User, UserCreate
from taskboard.database.repositories import UserRepository

MIGRATIONS = Path(taskboard.__file__).parent / "database" / "migrations"


@pytest.fixture(scope="session")
def database_url(dotmac_postgres: Any) -> Iterator[str]:
    """A database of this process's own, at the newest revision."""
    name = f"taskboard_{os.getpid()}"
    dotmac_postgres.create_database(name)
    url = dotmac_postgres.url(name)
    upgrade(MIGRATIONS, url=url)
    yield url
    dotmac_postgres.drop_database(name)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[TaskboardDatabase]:
    """The database, empty."""
    database = TaskboardDatabase(database_url, poolclass=pool.NullPool)
    async with database.engine.begin() as connection:
        await connection.execute(text("TRUNCATE " + ", ".join(Model.metadata.tables)))
    yield database
    await database.dispose()


@pytest.fixture
async def session(database: TaskboardDatabase) -> AsyncIterator[AsyncSession]:
    """A session of tenant ``acme``."""
    with use_context(RequestContext(tenant_id="acme", user_id="tester")):
        async with database.create_session() as session:
            yield session


@pytest.fixture
async def user(session: AsyncSession) -> User:
    """A user of tenant ``acme``, committed."""
    user = await UserRepository().create(session, UserCreate(username="newcomer"))
    await session.commit()
    return user


@pytest.fixture
def client_of(database: TaskboardDatabase) -> Callable[[str | None], httpx.AsyncClient]:
    """Clients of the HTTP API, each of one tenant."""
    app = create_app(database)

    def client(tenant_id: str | None) -> httpx.AsyncClient:
        headers = {} if tenant_id is None else {"X-Tenant-ID": tenant_id}
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://taskboard", headers=headers)

    return client


@pytest.fixture
async def client(client_of: Callable[[str | None], httpx.AsyncClient]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of tenant ``acme``."""
    async with client_of("acme") as client:
        yield client
