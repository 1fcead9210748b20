"""Every case runs once per backend: real servers, SQLite, and the mocks."""

from __future__ import annotations

import os

import pytest
import pytest_asyncio
from behaviour_models import ARRAY_METADATA, METADATA, Note
from behaviour_stores import MockStore, Store
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from dotmac.database import create_async_engine, create_engine
from dotmac.database.testing import AsyncMockRepository, MockRepository

BLOCKING = ("psycopg", "sqlite", "pymysql")
ASYNC = ("asyncpg", "psycopg_async", "aiosqlite", "asyncmy")
MOCKS = {"mock": MockRepository, "async_mock": AsyncMockRepository}


@pytest.fixture(scope="session", params=[*ASYNC, *BLOCKING, *MOCKS])
def backend(request):
    return request.param


@pytest.fixture(scope="session")
def backend_url(backend, request):
    if backend in MOCKS:
        yield None
    elif backend == "sqlite":
        yield "sqlite://"
    elif backend == "aiosqlite":
        yield "sqlite+aiosqlite://"
    elif backend in {"asyncmy", "pymysql"}:
        yield from _mysql_database(make_url(request.getfixturevalue("mysql_url")), backend)
    else:
        yield request.getfixturevalue("dotmac_database").url(backend.removesuffix("_async"))


def _mysql_database(url, driver):
    name = f"dotmac_behaviour_{os.getpid()}"
    admin = create_engine(url.set(drivername="mysql+pymysql"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield url.set(drivername=f"mysql+{driver}", database=name)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name}"))
    admin.dispose()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine(backend, backend_url):
    if backend in MOCKS:
        yield None
    elif backend in BLOCKING:
        engine = create_engine(backend_url)
        for metadata in _metadatas(engine.dialect.name):
            metadata.create_all(engine)
        yield engine
        for metadata in _metadatas(engine.dialect.name):
            metadata.drop_all(engine)
        engine.dispose()
    else:
        engine = create_async_engine(backend_url)
        async with engine.begin() as connection:
            for metadata in _metadatas(engine.dialect.name):
                await connection.run_sync(metadata.create_all)
        yield engine
        async with engine.begin() as connection:
            for metadata in _metadatas(engine.dialect.name):
                await connection.run_sync(metadata.drop_all)
        await engine.dispose()


def _metadatas(dialect):
    return [METADATA, ARRAY_METADATA] if dialect == "postgresql" else [METADATA]


SESSION = {"join_transaction_mode": "create_savepoint", "expire_on_commit": False, "autoflush": False}


@pytest_asyncio.fixture(loop_scope="session")
async def store(backend, engine):
    """A store whose rows are gone after the test."""
    if backend in MOCKS:
        with MOCKS[backend](Note) as first:
            yield MockStore(
                backend, first.db, is_async=backend == "async_mock", first=first, mock=MOCKS[backend]
            )
    elif backend in BLOCKING:
        with engine.connect() as connection:
            transaction = connection.begin()
            with Session(connection, **SESSION) as session:
                yield Store(backend, session, is_async=False)
            transaction.rollback()
    else:
        async with engine.connect() as connection:
            transaction = await connection.begin()
            async with AsyncSession(connection, **SESSION) as session:
                yield Store(backend, session, is_async=True)
            await transaction.rollback()
