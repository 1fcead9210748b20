"""A database of each test module's own, named by the environment as applications name theirs."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import pool

from dotmac.database import create_async_engine, create_engine
from dotmac.database.engine import _process_wide


@pytest.fixture(scope="module")
def database_url(dotmac_postgres):
    name = f"compatibility_{uuid.uuid4().hex[:12]}"
    dotmac_postgres.create_database(name)
    yield dotmac_postgres.url(name)
    dotmac_postgres.drop_database(name)


@pytest.fixture(scope="module")
def tables(request, database_url):
    """The module's tables, named by its MODELS, in its database; the blocking engine on them."""
    engine = create_engine(database_url, poolclass=pool.NullPool)
    made = [model.__table__ for model in request.module.MODELS]
    made[0].metadata.create_all(engine, tables=made)
    yield engine
    engine.dispose()


@pytest.fixture
async def engine(tables, database_url):
    del tables
    engine = create_async_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
def environment(tables, database_url, monkeypatch):
    """``DATABASE_URL`` names the module's database, and nothing remembers another one."""
    del tables
    monkeypatch.setenv("DATABASE_URL", database_url)
    _process_wide._process_wide.cache_clear()
    yield monkeypatch
    _process_wide._process_wide.cache_clear()
