"""Every driver keeps the same promises, on its real server."""

from __future__ import annotations

import asyncio
import contextlib
import uuid

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from dotmac.database.context import RequestContext, use_context
from dotmac.database.engine import (
    AsyncDatabase,
    Database,
    create_async_engine,
    create_engine,
    create_session_factory,
    get_session,
    read_only,
    with_async_session,
    with_session,
)

# Of this process's own: workers of one run share a MySQL database.
TABLE = f"engine_rows_{uuid.uuid4().hex[:8]}"
CREATE = text(f"CREATE TABLE {TABLE} (word varchar(50))")
DROP = text(f"DROP TABLE {TABLE}")
INSERT = text(f"INSERT INTO {TABLE} VALUES (:word)")  # noqa: S608 - a constant
DELETE = text(f"DELETE FROM {TABLE}")  # noqa: S608 - a constant
COUNT = text(f"SELECT count(*) FROM {TABLE}")  # noqa: S608 - a constant

ASYNC_DRIVERS = ["asyncpg", "psycopg", "aiosqlite", "aiosqlite-memory", "asyncmy", "aiomysql"]
SYNC_DRIVERS = ["psycopg", "pysqlite", "pysqlite-memory", "pymysql"]


def url_for(driver, request, tmp_path):
    if driver in {"asyncpg", "psycopg"}:
        return request.getfixturevalue("dotmac_database").url(driver)
    if driver.endswith("sqlite"):
        return f"sqlite+{driver}:///{tmp_path}/test.db"
    if driver.endswith("-memory"):
        return f"sqlite+{driver.removesuffix('-memory')}:///:memory:"
    mysql = make_url(request.getfixturevalue("mysql_url"))
    return mysql.set(drivername=f"mysql+{driver}").render_as_string(hide_password=False)


@pytest.fixture(params=ASYNC_DRIVERS)
def async_url(request, tmp_path):
    return url_for(request.param, request, tmp_path)


@pytest.fixture(params=SYNC_DRIVERS)
def sync_url(request, tmp_path):
    return url_for(request.param, request, tmp_path)


@pytest.fixture
async def engine(async_url):
    engine = create_async_engine(async_url, pool_size=5, max_overflow=0)
    async with engine.begin() as connection:
        await connection.execute(CREATE)
    yield engine
    async with engine.begin() as connection:
        await connection.execute(DROP)
    assert engine.pool.checkedout() == 0
    await engine.dispose()


@pytest.fixture
def sync_engine(sync_url):
    engine = create_engine(sync_url, pool_size=5, max_overflow=0)
    with engine.begin() as connection:
        connection.execute(CREATE)
    yield engine
    with engine.begin() as connection:
        connection.execute(DROP)
    assert engine.pool.checkedout() == 0
    engine.dispose()


async def rows(engine):
    async with engine.connect() as connection:
        return (await connection.execute(COUNT)).scalar()


def sync_rows(engine):
    with engine.connect() as connection:
        return connection.execute(COUNT).scalar()


async def test_session_commits_on_a_clean_exit(engine):
    async with with_async_session(create_session_factory(engine)) as session:
        await session.execute(INSERT, {"word": "ü🎈"})
    assert await rows(engine) == 1


async def test_session_rolls_back_on_an_error(engine):
    with contextlib.suppress(RuntimeError):
        async with with_async_session(create_session_factory(engine)) as session:
            await session.execute(INSERT, {"word": "a"})
            raise RuntimeError
    assert await rows(engine) == 0


async def test_session_rolls_back_when_cancelled(engine):
    written = asyncio.Event()

    async def work():
        async with with_async_session(create_session_factory(engine)) as session:
            await session.execute(INSERT, {"word": "a"})
            written.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await written.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await rows(engine) == 0


async def test_block_may_commit_by_itself(engine):
    with contextlib.suppress(RuntimeError):
        async with with_async_session(create_session_factory(engine)) as session:
            await session.execute(INSERT, {"word": "kept"})
            await session.commit()
            await session.execute(INSERT, {"word": "lost"})
            raise RuntimeError
    assert await rows(engine) == 1


async def test_get_session_closes_and_does_not_commit(engine):
    async with get_session(create_session_factory(engine)) as session:
        await session.execute(INSERT, {"word": "a"})
    assert await rows(engine) == 0


async def test_read_only_session_is_refused_writes_by_the_server(engine):
    async with create_session_factory(read_only(engine))() as session:
        assert (await session.execute(COUNT)).scalar() == 0
        with pytest.raises(DBAPIError):
            await session.execute(INSERT, {"word": "a"})
    async with with_async_session(create_session_factory(engine)) as session:
        await session.execute(INSERT, {"word": "a"})
    assert await rows(engine) == 1


async def test_read_only_holds_in_every_transaction_of_a_session(engine):
    async with create_session_factory(read_only(engine))() as session:
        await session.execute(COUNT)
        await session.commit()
        with pytest.raises(DBAPIError):
            await session.execute(INSERT, {"word": "a"})


async def test_savepoint_rolls_back_alone(engine):
    async with with_async_session(create_session_factory(engine)) as session:
        await session.execute(INSERT, {"word": "kept"})
        with contextlib.suppress(RuntimeError):
            async with session.begin_nested():
                await session.execute(INSERT, {"word": "lost"})
                raise RuntimeError
    assert await rows(engine) == 1


async def test_tables_created_in_a_transaction_roll_back(engine):
    if engine.dialect.name in {"mysql", "mariadb"}:
        pytest.skip("MySQL commits before every DDL statement")
    async with engine.connect() as connection:
        await connection.execute(text("CREATE TABLE never_there (id integer)"))
        await connection.rollback()
        with pytest.raises(DBAPIError):
            await connection.execute(text("SELECT * FROM never_there"))


async def test_errors_do_not_show_parameters(engine):
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError) as caught:
            await connection.execute(text("INSERT INTO no_such_table VALUES (:word)"), {"word": "s3cret"})
    assert "s3cret" not in str(caught.value)


async def test_autocommit_connections_hold_no_transaction(engine):
    async with engine.connect() as connection:
        free = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await free.execute(INSERT, {"word": "a"})
    assert await rows(engine) == 1


async def test_session_remembers_on_whose_behalf_it_was_opened(engine):
    factory = create_session_factory(engine)
    with use_context(RequestContext(user_id="ada")) as context:
        session = factory()
    assert session.info["dotmac_context"] is context


@pytest.mark.parametrize("storms", [10])
async def test_cancelled_sessions_leave_no_connection_checked_out(engine, storms):
    factory = create_session_factory(engine)

    async def work(number):
        async with with_async_session(factory) as session:
            for _ in range(5):
                await session.execute(INSERT, {"word": str(number)})
            await session.execute(DELETE)

    for storm in range(storms):
        tasks = [asyncio.create_task(work(number)) for number in range(50)]
        for _ in range(storm * 3):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert engine.pool.checkedout() == 0
    assert await rows(engine) == 0


def test_second_event_loop_meets_no_connection_of_the_first(async_url):
    database = AsyncDatabase(async_url)

    async def work():
        async with database.create_session() as session:
            return (await session.execute(text("SELECT 1"))).scalar(), id(database.engine)

    first, second = asyncio.run(work()), asyncio.run(work())
    assert first[0] == second[0] == 1
    assert first[1] != second[1] or len(database._per_loop) == 0


@pytest.mark.filterwarnings("error")
def test_connections_of_a_loop_closed_without_shutdown_are_closed_in_silence(async_url):
    database = AsyncDatabase(async_url)

    async def work():
        async with database.create_session() as session:
            await session.execute(text("SELECT 1"))

    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(work())
        loop.close()
    del loop
    asyncio.run(work())
    assert len(database._per_loop) == 0


async def test_async_database_is_usable_after_dispose(async_url):
    database = AsyncDatabase(async_url)
    for _ in range(2):
        async with database.create_session() as session:
            assert (await session.execute(text("SELECT 1"))).scalar() == 1
        assert await database.check()
        await database.dispose()


async def test_async_database_reads_and_writes(async_url):
    async with AsyncDatabase(async_url) as database:
        async with database.read_session() as session:
            with pytest.raises(DBAPIError):
                await session.execute(text("CREATE TABLE never_there (id integer)"))
        async with database.write_session() as session:
            assert (await session.execute(text("SELECT 1"))).scalar() == 1
        assert 0 < await database.health() < 5


def test_sync_session_commits_and_rolls_back(sync_engine):
    factory = create_session_factory(sync_engine)
    with with_session(factory) as session:
        session.execute(INSERT, {"word": "kept"})
    with contextlib.suppress(RuntimeError), with_session(factory) as session:
        session.execute(INSERT, {"word": "lost"})
        raise RuntimeError
    assert sync_rows(sync_engine) == 1


def test_sync_read_only_session_is_refused_writes_by_the_server(sync_engine):
    with create_session_factory(read_only(sync_engine))() as session:
        assert session.execute(COUNT).scalar() == 0
        with pytest.raises(DBAPIError):
            session.execute(INSERT, {"word": "a"})
    with with_session(create_session_factory(sync_engine)) as session:
        session.execute(INSERT, {"word": "a"})
    assert sync_rows(sync_engine) == 1


def test_sync_savepoint_rolls_back_alone(sync_engine):
    with with_session(create_session_factory(sync_engine)) as session:
        session.execute(INSERT, {"word": "kept"})
        with contextlib.suppress(RuntimeError), session.begin_nested():
            session.execute(INSERT, {"word": "lost"})
            raise RuntimeError
    assert sync_rows(sync_engine) == 1


def test_sync_database_is_usable_after_dispose(sync_url):
    with Database(sync_url) as database:
        for _ in range(2):
            with database.create_session() as session:
                assert session.execute(text("SELECT 1")).scalar() == 1
            with database.read_session() as session, pytest.raises(DBAPIError):
                session.execute(text("CREATE TABLE never_there (id integer)"))
            assert database.check()
            assert database.health() > 0
            database.dispose()
