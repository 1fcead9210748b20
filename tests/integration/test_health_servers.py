"""Health checks of real servers: no slot taken, no transaction touched, nothing left behind."""

from __future__ import annotations

import asyncio
import uuid

import pytest
import sqlalchemy
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from dotmac.database import AsyncDatabase, Database, DatabaseHealthChecker, DatabaseSettings, HealthStatus
from dotmac.database.engine import create_async_engine, create_engine, create_session_factory, read_only

ASYNC_PG, SYNC_PG = ["asyncpg", "psycopg"], "psycopg"
SELECT_1 = text("SELECT 1")
CHECKER = DatabaseHealthChecker()


@pytest.fixture
def application():
    return f"health-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def settings(dotmac_database, application):
    def named(driver):
        return DatabaseSettings(url=dotmac_database.url(driver), application_name=application)

    return named


def server_sessions(dotmac_postgres, application):
    with (
        Database(dotmac_postgres.url("postgres", driver="psycopg", role="admin")) as admin,
        admin.create_session() as session,
    ):
        query = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name")
        return session.scalar(query, {"name": application})


async def until_gone(dotmac_postgres, application):
    async with asyncio.timeout(20):
        while await asyncio.to_thread(server_sessions, dotmac_postgres, application):  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # the server tells nobody when a session has gone


@pytest.mark.parametrize("driver", ASYNC_PG)
async def test_a_full_pool_is_degraded_and_its_server_is_healthy(
    dotmac_postgres, settings, application, driver
):
    async with (
        AsyncDatabase(settings(driver), pool_size=2, max_overflow=0, pool_timeout=0.1) as database,
        database.engine.connect(),
        database.engine.connect(),
    ):
        result = await CHECKER.check_health(database)
        statuses = {check.name: check.status.value for check in result.checks}
        assert statuses == {
            "connectivity": "healthy",
            "query": "healthy",
            "performance": "healthy",
            "pool": "degraded",
        }
        assert result.message == "2 of 2 connections are in use."
        assert database.engine.pool.checkedout() == 2
        await asyncio.gather(*(CHECKER.check_health(database.engine) for _ in range(20)))
        assert await asyncio.to_thread(server_sessions, dotmac_postgres, application) == 3
    await until_gone(dotmac_postgres, application)


async def test_a_full_pool_is_seen_through_by_blocking_checks(dotmac_postgres, settings, application):
    with (
        Database(settings(SYNC_PG), pool_size=1, max_overflow=0, pool_timeout=0.1) as database,
        database.engine.connect(),
    ):
        await asyncio.gather(*(asyncio.to_thread(CHECKER.check_health, database) for _ in range(10)))
        result = CHECKER.check_health(database)
        assert (result.status, result.message) == ("degraded", "1 of 1 connections are in use.")
        assert server_sessions(dotmac_postgres, application) == 2
    await until_gone(dotmac_postgres, application)


@pytest.mark.parametrize("driver", ASYNC_PG)
async def test_plain_engines_work_as_well(dotmac_database, driver):
    engine = sqlalchemy_asyncio.create_async_engine(dotmac_database.url(driver), pool_size=1, max_overflow=0)
    async with engine.connect():
        assert (await CHECKER.check_connectivity(engine)).is_healthy
    await engine.dispose()
    assert (await CHECKER.check_connectivity(engine)).is_healthy
    await engine.dispose()


def test_a_plain_blocking_engine_with_a_listener_that_begins_works_as_well(dotmac_database):
    engine = sqlalchemy.create_engine(dotmac_database.url(SYNC_PG))

    @event.listens_for(engine, "connect")
    def set_search_path(connection, _entry):
        connection.execute("SET search_path TO public")

    assert CHECKER.check_health(engine).is_healthy
    engine.dispose()


async def test_later_checks_reuse_one_connection_and_send_one_statement(dotmac_database, count_statements):
    engine = create_async_engine(dotmac_database.url())
    opened = []
    event.listen(engine.sync_engine, "connect", lambda *_: opened.append(1))
    for _ in range(5):
        assert (await CHECKER.check_health(engine)).is_healthy
    assert opened == [1]
    with count_statements(engine, exactly=0):
        await CHECKER.check_health(read_only(engine))
    assert opened == [1]
    await engine.dispose()


def test_an_engine_is_checked_in_every_event_loop(dotmac_database):
    async def check():
        async with database:
            return (await CHECKER.check_health(database)).status

    database = AsyncDatabase(dotmac_database.url())
    assert [asyncio.run(check()) for _ in range(3)] == [HealthStatus.HEALTHY] * 3


@pytest.mark.parametrize("driver", ASYNC_PG)
async def test_a_transaction_goes_on_after_its_session_was_checked(dotmac_database, driver):
    async with AsyncDatabase(dotmac_database.url(driver)) as database, database.session_factory() as session:
        await session.execute(text("CREATE TEMPORARY TABLE t (x int) ON COMMIT DROP"))
        await session.execute(text("INSERT INTO t VALUES (1)"))
        result = await CHECKER.check_health(session)
        assert result.is_healthy
        assert await session.scalar(text("SELECT count(*) FROM t")) == 1
        await session.rollback()
        assert await session.scalar(text("SELECT to_regclass('pg_temp.t')")) is None


@pytest.mark.parametrize("driver", ASYNC_PG)
async def test_an_aborted_transaction_is_told_and_left_aborted(dotmac_database, driver):
    async with AsyncDatabase(dotmac_database.url(driver)) as database, database.session_factory() as session:
        with pytest.raises(DBAPIError):
            await session.execute(text("SELECT 1 / 0"))
        result = await CHECKER.check_health(session)
        assert result.status is HealthStatus.UNHEALTHY
        assert "aborted" in result.message
        assert "roll it back" in result.message
        with pytest.raises(DBAPIError):
            await session.execute(SELECT_1)
        await session.rollback()
        assert (await CHECKER.check_health(session)).is_healthy


def test_published_health_code_runs_with_a_blocking_session(dotmac_database, capsys):
    with Database(dotmac_database.url(SYNC_PG)) as database, database.create_session() as session:
        session.execute(SELECT_1)
        health_checker = DatabaseHealthChecker(
            connection_timeout=5.0, query_timeout=10.0, slow_query_threshold=1.0
        )
        health_result = health_checker.check_health(session)
        print(f"Status: {health_result.status}")  # noqa: T201 - as an application would
        connectivity_result = health_checker.check_connectivity(session)
        assert health_result.duration_ms > 0
        assert connectivity_result.status == "healthy"
    assert capsys.readouterr().out == "Status: healthy\n"


def test_a_session_on_a_connection_of_the_callers_is_checked_there(dotmac_database):
    engine = create_engine(dotmac_database.url(SYNC_PG))
    with engine.connect() as connection, create_session_factory(engine)(bind=connection) as session:
        assert CHECKER.check_health(session).is_healthy
        assert not connection.in_transaction()
    engine.dispose()


async def test_a_read_only_server_says_so(dotmac_postgres, dotmac_database):
    name = f"{dotmac_database.name}_readonly"
    dotmac_postgres.create_database(name)
    try:
        dotmac_postgres.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        async with AsyncDatabase(dotmac_postgres.url(name)) as database:
            result = await CHECKER.check_query(database)
        assert (result.status, dict(result.details)) == (
            "healthy",
            {"in_recovery": False, "read_only": True},
        )
    finally:
        dotmac_postgres.drop_database(name)


@pytest.mark.parametrize("driver", [*ASYNC_PG, "sync"])
async def test_terminated_monitoring_connections_are_replaced_unnoticed(
    dotmac_postgres, settings, application, driver
):
    terminate = text(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE application_name = :name"
    )
    async with AsyncDatabase(dotmac_postgres.url("postgres", role="admin")) as admin:
        engine = (
            create_async_engine(settings(driver)) if driver != "sync" else Database(settings(SYNC_PG)).engine
        )
        for _ in range(3):
            result = CHECKER.check_health(engine)
            assert (result if driver == "sync" else await result).is_healthy
            async with admin.create_session() as session:
                assert await session.scalar(terminate, {"name": application}) == 1
        if driver == "sync":
            engine.dispose()
        else:
            await engine.dispose()


@pytest.mark.parametrize("driver", ASYNC_PG)
async def test_a_wrong_password_is_told_without_telling_it(dotmac_postgres, driver):
    address = sqlalchemy.make_url(dotmac_postgres.url("postgres", driver=driver))
    url = address.set(username="nobody_known", password="wr0ng-s3cret")
    engine = create_async_engine(url)
    result = await CHECKER.check_health(engine)
    await engine.dispose()
    if result.is_healthy:
        pytest.skip("this server asks for no password")
    assert result.status is HealthStatus.UNHEALTHY
    for secret in ("wr0ng-s3cret", "nobody_known", address.host, str(address.port)):
        assert secret not in str(result.to_dict())


@pytest.mark.parametrize("driver", ["asyncmy", "aiomysql"])
async def test_mysql_is_checked(mysql_url, driver):
    url = sqlalchemy.make_url(mysql_url).set(drivername=f"mysql+{driver}")
    async with (
        AsyncDatabase(url, pool_size=1, max_overflow=0) as database,
        database.create_session() as session,
    ):
        await session.execute(SELECT_1)
        assert (await CHECKER.check_query(session)).details == {"in_recovery": False, "read_only": False}
        assert (await CHECKER.check_connectivity(database)).is_healthy


def test_mysql_is_checked_blocking(mysql_url):
    with Database(mysql_url) as database, database.create_session() as session:
        assert CHECKER.check_health(database).is_healthy
        session.execute(SELECT_1)
        assert CHECKER.check_health(session).is_healthy
