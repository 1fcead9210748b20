"""What repositories promise among many callers, over many rows, and in statements sent."""

from __future__ import annotations

import asyncio
import os
import secrets
import tracemalloc
import uuid

import pytest
import pytest_asyncio
from sqlalchemy import MetaData, String, make_url, text
from sqlalchemy.orm import Mapped, mapped_column

from dotmac.database import (
    AuditMixin,
    BaseModel,
    SoftDeleteMixin,
    TenantModel,
    create_async_engine,
    create_async_repository,
    create_engine,
    create_repository,
    create_session_factory,
    tenant_unique,
    with_async_session,
    with_session,
)

METADATA = MetaData()
CALLERS = 40
ROWS = 1_000_000 if os.environ.get("DOTMAC_TEST_FULL") == "1" else 100_000
TRACED = 30_000
PEAK_BYTES = 8 * 2**20


class Tally(SoftDeleteMixin, AuditMixin, BaseModel):
    __tablename__ = "concurrency_tallies"
    metadata = METADATA

    name: Mapped[str] = mapped_column(String(50), unique=True)
    value: Mapped[int] = mapped_column(default=0)


class TenantTally(SoftDeleteMixin, TenantModel):
    __tablename__ = "concurrency_tenant_tallies"
    metadata = METADATA
    __table_args__ = (tenant_unique("name"),)

    name: Mapped[str] = mapped_column(String(50))
    value: Mapped[int] = mapped_column(default=0)


@pytest.fixture(params=["asyncpg", "psycopg", "aiosqlite", "asyncmy", "aiomysql"])
def url(request, tmp_path):
    if request.param == "aiosqlite":
        yield f"sqlite+aiosqlite:///{tmp_path}/concurrency.db"
    elif request.param in {"asyncmy", "aiomysql"}:
        given = make_url(request.getfixturevalue("mysql_url"))
        name = f"dotmac_concurrency_{secrets.token_hex(4)}"
        admin = create_engine(given.set(drivername="mysql+pymysql"), isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        yield given.set(drivername=f"mysql+{request.param}", database=name)
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name}"))
        admin.dispose()
    else:
        yield request.getfixturevalue("dotmac_database").url(request.param)


@pytest_asyncio.fixture
async def engine(url):
    engine = create_async_engine(url, pool_size=CALLERS, max_overflow=0)
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    yield engine
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.drop_all)
    await engine.dispose()


@pytest.fixture
def factory(engine):
    return create_session_factory(engine)


async def all_at_once(factory, work, *, callers=CALLERS):
    """``work(session, number)`` in a committed session for each caller, all begun together."""
    start = asyncio.Barrier(callers)

    async def one(number):
        await start.wait()
        async with with_async_session(factory) as session:
            return await work(session, number)

    return await asyncio.gather(*(one(number) for number in range(callers)))


@pytest.mark.parametrize(("model", "tenant"), [(Tally, None), (TenantTally, "t1")])
async def test_forty_callers_get_or_create_one_row(factory, model, tenant):
    async def work(session, number):
        repo = create_async_repository(session, model, tenant)
        row, created = await repo.get_or_create({"name": "same"}, {"value": number})
        return row.id, row.value, created

    answers = await all_at_once(factory, work)
    assert len({(key, value) for key, value, _ in answers}) == 1
    assert [created for *_, created in answers].count(True) == 1
    async with factory() as session:
        assert await create_async_repository(session, model, tenant).count() == 1


@pytest.mark.parametrize(("model", "tenant"), [(Tally, None), (TenantTally, "t1")])
async def test_forty_callers_upsert_one_row(factory, model, tenant):
    async def work(session, number):
        repo = create_async_repository(session, model, tenant)
        row = await repo.upsert({"name": "same", "value": number}, match=["name"])
        return row.id, row.value == number

    answers = await all_at_once(factory, work)
    assert {right for _, right in answers} == {True}
    assert len({key for key, _ in answers}) == 1
    async with factory() as session:
        assert await create_async_repository(session, model, tenant).count() == 1


async def test_forty_callers_upsert_the_same_rows_in_any_order(factory):
    async def work(session, number):
        names = [f"n{(number + step * (1 if number % 2 else -1)) % 20}" for step in range(20)]
        rows = await create_async_repository(session, Tally).upsert_many(
            [{"name": name, "value": number} for name in names], match=["name"]
        )
        return [row.name for row in rows] == names

    assert set(await all_at_once(factory, work)) == {True}
    async with factory() as session:
        assert await create_async_repository(session, Tally).count() == 20


async def test_forty_callers_of_two_tenants_make_a_row_each(factory):
    async def work(session, number):
        repo = create_async_repository(session, TenantTally, f"t{number % 2}")
        return (await repo.get_or_create({"name": "same"}))[0].id

    assert len(set(await all_at_once(factory, work))) == 2


async def test_get_or_create_in_a_transaction_that_has_read_already(factory):
    async def work(session, number):
        repo = create_async_repository(session, Tally)
        if session.get_bind().dialect.name != "sqlite":  # there a reader cannot become a writer
            assert await repo.count() in {0, 1}
        return (await repo.get_or_create({"name": "same"}))[0].id

    assert len(set(await all_at_once(factory, work))) == 1


async def test_stream_walks_many_rows_in_constant_memory(dotmac_database):
    engine = create_async_engine(dotmac_database.url("asyncpg"))
    try:
        await _walks_in_constant_memory(engine)
    finally:
        await engine.dispose()


async def _walks_in_constant_memory(engine):
    factory = create_session_factory(engine)
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
        await connection.execute(
            text(
                "INSERT INTO concurrency_tallies (id, name, value) "
                "SELECT gen_random_uuid(), 'n' || i, i FROM generate_series(1, :rows) AS i"
            ),
            {"rows": ROWS},
        )
    try:
        async with factory() as session:
            repo = create_async_repository(session, Tally)
            seen = 0
            async for row in repo.stream():
                seen += 1
                if seen == ROWS - TRACED:  # tracing all of them would take five times as long
                    tracemalloc.start()
                assert row.name
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    finally:
        async with engine.begin() as connection:
            await connection.run_sync(METADATA.drop_all)
    assert seen == ROWS
    # Room for two batches of a thousand entities and what the driver holds of them, not for thirty thousand entities.
    assert peak < PEAK_BYTES


@pytest.fixture
async def tally_engine(dotmac_database):
    engine = create_async_engine(dotmac_database.url("asyncpg"))
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    yield engine
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.drop_all)
    await engine.dispose()


STATEMENTS = {
    "create": (lambda r: r.create({"name": "x"}), ["INSERT"]),
    "get_by_id": (lambda r: r.get_by_id(uuid.uuid4()), ["SELECT"]),
    "get_by_field": (lambda r: r.get_by_field("name", "a"), ["SELECT"]),
    "update": (lambda r: r.update(KEY, {"value": 1}), ["SELECT", "UPDATE"]),
    "delete": (lambda r: r.delete(KEY), ["SELECT", "UPDATE"]),
    "remove": (lambda r: r.delete(KEY, soft_delete=False), ["SELECT", "DELETE"]),
    "restore": (lambda r: r.restore(KEY), ["SELECT"]),
    "list": (lambda r: r.list(), ["SELECT"]),
    "count": (lambda r: r.count(), ["SELECT"]),
    "exists": (lambda r: r.exists(), ["SELECT"]),
    "page that is the last": (lambda r: r.list_paginated(), ["SELECT"]),
    "page and count": (lambda r: r.list_paginated({"pagination": {"per_page": 1}}), ["SELECT", "SELECT"]),
    "cursor page": (lambda r: r.cursor_paginate({"cursor_pagination": {"limit": 1}}), ["SELECT"]),
    "bulk_create": (lambda r: r.bulk_create([{"name": f"x{i}"} for i in range(50)]), ["INSERT"]),
    "bulk_create without returning": (
        lambda r: r.bulk_create([{"name": f"x{i}"} for i in range(50)], returning=False),
        ["INSERT"],
    ),
    # COPY itself goes past SQLAlchemy: what is counted asks whether it is allowed.
    "bulk_create by COPY": (
        lambda r: r.bulk_create([{"name": f"x{i}"} for i in range(5_000)], returning=False),
        ["SELECT"],
    ),
    "bulk_update": (lambda r: r.bulk_update([{"id": KEY, "value": 3}]), ["UPDATE"]),
    "bulk_delete": (lambda r: r.bulk_delete([KEY]), ["UPDATE"]),
    "upsert": (lambda r: r.upsert({"name": "a", "value": 2}, match=["name"]), ["INSERT"]),
    "upsert_many": (
        lambda r: r.upsert_many([{"name": f"x{i}"} for i in range(50)], match=["name"]),
        ["INSERT"],
    ),
    "get_or_create of one that exists": (lambda r: r.get_or_create({"name": "a"}), ["SELECT"]),
    "get_or_create of a new one": (
        lambda r: r.get_or_create({"name": "new"}),
        ["SELECT", "INSERT", "SELECT"],
    ),
}
KEY = uuid.UUID(int=1)


@pytest.mark.parametrize("operation", STATEMENTS)
async def test_operation_costs_the_statements_it_says(tally_engine, count_statements, operation):
    work, expected = STATEMENTS[operation]
    factory = create_session_factory(tally_engine)
    async with with_async_session(factory) as session:
        await create_async_repository(session, Tally).bulk_create([{"id": KEY, "name": "a"}, {"name": "b"}])
    async with factory() as session:
        with count_statements(tally_engine) as log:
            await work(create_async_repository(session, Tally))
    assert [sql.split()[0] for sql in log] == expected


def test_blocking_repositories_send_the_same_statements(dotmac_database, count_statements):
    engine = create_engine(dotmac_database.url("psycopg"))
    METADATA.create_all(engine)
    try:
        with count_statements(engine, exactly=1), with_session(create_session_factory(engine)) as session:
            create_repository(session, Tally).create({"name": "a"})
    finally:
        METADATA.drop_all(engine)
        engine.dispose()
