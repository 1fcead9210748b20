"""What an engine does about connections that are slow, dead, cancelled or old."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import uuid
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import event, make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import NullPool

from dotmac.database.engine import (
    AsyncDatabase,
    Database,
    create_async_engine,
    create_engine,
    create_session_factory,
    get_async_db_connection,
    wait_until_ready,
    wait_until_ready_sync,
    with_async_session,
)
from dotmac.database.engine import _liveness as liveness
from dotmac.database.engine._process_wide import _process_wide
from dotmac.database.errors import ConfigurationError, ConnectionPoolError, DatabaseUnavailableError
from dotmac.database.settings import DatabaseSettings

PG_DRIVERS = ["asyncpg", "psycopg"]
SELECT_1 = text("SELECT 1")


class Proxy:
    """A TCP proxy whose traffic can be frozen."""

    def __init__(self, host, port):
        self._target = (host, port)
        self._running = asyncio.Event()
        self._running.set()
        self._tasks = set()

    def freeze(self):
        self._running.clear()

    def thaw(self):
        self._running.set()

    async def _pump(self, reader, writer):
        try:
            while data := await reader.read(65536):
                await self._running.wait()
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()

    async def _serve(self, reader, writer):
        upstream = await asyncio.open_connection(*self._target)
        await asyncio.gather(self._pump(reader, upstream[1]), self._pump(upstream[0], writer))

    @asynccontextmanager
    async def listening(self):
        async def serve(reader, writer):
            task = asyncio.current_task()
            self._tasks.add(task)
            try:
                await self._serve(reader, writer)
            except asyncio.CancelledError:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
def black_hole():
    """The port of a server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


async def sessions_named(admin_url, name):
    engine = create_async_engine(admin_url, poolclass=NullPool)
    async with engine.connect() as connection:
        query = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name")
        return (await connection.execute(query, {"name": name})).scalar()


@pytest.mark.parametrize("driver", PG_DRIVERS)
async def test_cancelled_connects_leave_no_server_session(dotmac_database, driver):
    name = f"cancelled-{uuid.uuid4().hex[:12]}"
    settings = DatabaseSettings(url=dotmac_database.url(driver), application_name=name)
    engine = create_async_engine(settings, poolclass=NullPool)

    async def connect():
        async with engine.connect() as connection:
            await connection.execute(SELECT_1)

    for turn in range(10):
        tasks = [asyncio.create_task(connect()) for _ in range(10)]
        for _ in range(turn * 4):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(20):
        while await sessions_named(dotmac_database.url("asyncpg", role="admin"), name):  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # the server tells nobody when a session has gone


def terminate_others(dotmac_postgres, name):
    dotmac_postgres.execute(
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = '{name}'"  # noqa: S608
    )


@pytest.mark.parametrize("driver", PG_DRIVERS)
@pytest.mark.parametrize("trusted_seconds", [0.0, 60.0])
async def test_idle_connections_that_were_terminated_cause_no_error(
    dotmac_postgres, dotmac_database, driver, trusted_seconds, monkeypatch
):
    monkeypatch.setattr(liveness, "TRUSTED_SECONDS", trusted_seconds)
    name = f"idle-{uuid.uuid4().hex[:12]}"
    database = AsyncDatabase(DatabaseSettings(url=dotmac_database.url(driver), application_name=name))

    async def work():
        async with database.create_session() as session:
            await session.execute(SELECT_1)

    async with database:
        await asyncio.gather(*(work() for _ in range(5)))
        await asyncio.to_thread(terminate_others, dotmac_postgres, name)
        await asyncio.gather(*(work() for _ in range(5)))


@pytest.mark.parametrize("trusted_seconds", [0.0, 60.0])
def test_idle_blocking_connections_that_were_terminated_cause_no_error(
    dotmac_postgres, dotmac_database, trusted_seconds, monkeypatch
):
    monkeypatch.setattr(liveness, "TRUSTED_SECONDS", trusted_seconds)
    name = f"idle-{uuid.uuid4().hex[:12]}"
    with Database(DatabaseSettings(url=dotmac_database.url("psycopg"), application_name=name)) as database:
        assert database.check()
        terminate_others(dotmac_postgres, name)
        database.health()


@pytest.mark.parametrize("driver", PG_DRIVERS)
async def test_silent_connection_is_given_up_at_the_ping_deadline(dotmac_database, driver, monkeypatch):
    monkeypatch.setattr(liveness, "TRUSTED_SECONDS", 0.0)
    monkeypatch.setattr(liveness, "PING_SECONDS", 0.2)
    address = make_url(dotmac_database.url(driver))
    proxy = Proxy(address.host, address.port or 5432)
    async with proxy.listening() as port:
        settings = DatabaseSettings(url=address.set(host="127.0.0.1", port=port), connect_timeout=0.5)
        engine = create_async_engine(settings, pool_size=1, max_overflow=0)
        async with engine.connect() as connection:
            await connection.execute(SELECT_1)
        proxy.freeze()
        with pytest.raises((OSError, DBAPIError)):
            async with asyncio.timeout(30), engine.connect():
                pass
        assert engine.pool.checkedout() == 0
        proxy.thaw()
        async with engine.connect() as connection:
            assert (await connection.execute(SELECT_1)).scalar() == 1
        await engine.dispose()


def test_silent_blocking_connection_is_given_up_at_the_ping_deadline(dotmac_database, monkeypatch):
    monkeypatch.setattr(liveness, "TRUSTED_SECONDS", 0.0)
    monkeypatch.setattr(liveness, "PING_SECONDS", 0.2)
    address = make_url(dotmac_database.url("psycopg"))
    started, finished, box = threading.Event(), threading.Event(), {}

    async def serve():
        proxy = Proxy(address.host, address.port or 5432)
        async with proxy.listening() as port:
            box.update(proxy=proxy, port=port, loop=asyncio.get_running_loop())
            started.set()
            await asyncio.to_thread(finished.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    started.wait()
    try:
        settings = DatabaseSettings(url=address.set(host="127.0.0.1", port=box["port"]), connect_timeout=1)
        engine = create_engine(
            settings.sync_url, pool_size=1, max_overflow=0, connect_args={"connect_timeout": 2}
        )
        with engine.connect() as connection:
            connection.execute(SELECT_1)
        box["loop"].call_soon_threadsafe(box["proxy"].freeze)
        with pytest.raises(DBAPIError):
            engine.connect()
        assert engine.pool.checkedout() == 0
        box["loop"].call_soon_threadsafe(box["proxy"].thaw)
        with engine.connect() as connection:
            assert connection.execute(SELECT_1).scalar() == 1
        engine.dispose()
    finally:
        finished.set()
        thread.join()


@pytest.mark.parametrize("driver", PG_DRIVERS)
async def test_recently_used_connection_is_not_pinged(dotmac_database, driver, monkeypatch):
    monkeypatch.setattr(liveness, "TRUSTED_SECONDS", 60.0)
    engine = create_async_engine(dotmac_database.url(driver))
    pings = []
    original = liveness._answers
    monkeypatch.setattr(liveness, "_answers", lambda *arguments: pings.append(1) or original(*arguments))
    for _ in range(3):
        async with engine.connect() as connection:
            await connection.execute(SELECT_1)
    assert not pings
    monkeypatch.setattr(liveness, "TRUSTED_SECONDS", 0.0)
    async with engine.connect() as connection:
        await connection.execute(SELECT_1)
    await engine.dispose()
    assert len(pings) == 1


async def test_pre_ping_can_be_switched_off(dotmac_database, monkeypatch):
    monkeypatch.setattr(liveness, "TRUSTED_SECONDS", 0.0)
    engine = create_async_engine(dotmac_database.url("asyncpg"), pool_pre_ping=False)
    monkeypatch.setattr(liveness, "_answers", lambda *_arguments: pytest.fail("pinged"))
    for _ in range(2):
        async with engine.connect() as connection:
            await connection.execute(SELECT_1)
    await engine.dispose()


async def test_connections_past_their_lifetime_are_replaced_before_use(dotmac_database):
    engine = create_async_engine(dotmac_database.url("asyncpg"), pool_recycle=1000)
    lifetimes = []

    @event.listens_for(engine.sync_engine, "checkout")
    def note(_connection, entry, _proxy):
        lifetimes.append(entry.info["dotmac_expires"] - entry.info["dotmac_last_used"])

    async def server_session():
        async with engine.connect() as connection:
            pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar()
            return pid, (await connection.get_raw_connection())._connection_record

    first, entry = await server_session()
    assert (await server_session())[0] == first
    entry.info["dotmac_expires"] = 0.0
    assert (await server_session())[0] != first
    assert all(790 < seconds <= 1000 for seconds in lifetimes[:1])
    await engine.dispose()


@pytest.mark.parametrize("driver", PG_DRIVERS)
async def test_server_settings_are_the_same_on_both_drivers(dotmac_database, driver):
    settings = DatabaseSettings(
        url=dotmac_database.url(driver), application_name="my app", statement_timeout=2.5
    )
    engine = create_async_engine(settings, connect_args={"server_settings": {"work_mem": "5MB"}})
    names = ["application_name", "jit", "TimeZone", "statement_timeout", "work_mem"]
    async with engine.connect() as connection:
        values = [(await connection.execute(text(f"SHOW {name}"))).scalar() for name in names]
    await engine.dispose()
    assert values == ["my app", "off", "UTC", "2500ms", "5MB"]


@pytest.mark.parametrize("driver", PG_DRIVERS)
async def test_command_timeout_ends_a_slow_statement(dotmac_database, driver):
    engine = create_async_engine(dotmac_database.url(driver), connect_args={"command_timeout": 0.2})
    async with engine.connect() as connection:
        with pytest.raises((TimeoutError, DBAPIError)):
            await connection.execute(text("SELECT pg_sleep(20)"))
    assert engine.pool.checkedout() == 0
    await engine.dispose()


async def test_sockets_keep_alive_and_give_up_on_unacknowledged_data(dotmac_database):
    engine = create_async_engine(dotmac_database.url("asyncpg"))
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        peer = driver._transport.get_extra_info("socket")
        assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
    await engine.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("spelling", ["sslmode", "ssl"])
async def test_either_spelling_of_sslmode_works_on_either_driver(dotmac_database, driver, spelling):
    url = f"{dotmac_database.url(driver)}?{spelling}=disable"
    async with AsyncDatabase(url) as database:
        assert await database.check()
    if driver == "psycopg":
        with Database(url) as blocking:
            assert blocking.check()


INSERT_PERSON = "INSERT INTO people VALUES (:email, :age)"
BROKEN = {
    "unique": (INSERT_PERSON, {"email": "ada@example.org", "age": 1}),
    "check": (INSERT_PERSON, {"email": "ada@example.org", "age": -1}),
    "not null": (INSERT_PERSON, {"email": "ada@example.org", "age": None}),
    "wrong type": (INSERT_PERSON, {"email": "b", "age": "ada@example.org"}),
}


def shown(error):
    while error is not None:
        yield str(error)
        error = error.__cause__


@pytest.mark.parametrize("why", BROKEN)
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "asyncmy", "aiomysql"])
async def test_refused_row_is_not_shown_by_the_error(request, driver, why):
    if driver in PG_DRIVERS:
        url = request.getfixturevalue("dotmac_database").url(driver)
    else:
        url = make_url(request.getfixturevalue("mysql_url")).set(drivername=f"mysql+{driver}")
    engine = create_async_engine(url)
    statement, values = BROKEN[why]
    async with engine.connect() as connection:
        await connection.execute(
            text(
                "CREATE TEMPORARY TABLE people (email varchar(50) PRIMARY KEY, age int NOT NULL CHECK (age > 0))"
            )
        )
        await connection.execute(text(INSERT_PERSON), {"email": "ada@example.org", "age": 1})
        with pytest.raises(DBAPIError) as caught:
            await connection.execute(text(statement), values)
    await engine.dispose()
    assert not [message for message in shown(caught.value) if "ada@example.org" in message]


async def test_error_keeps_the_name_of_the_constraint(dotmac_database):
    engine = create_async_engine(dotmac_database.url())
    async with engine.connect() as connection:
        with pytest.raises(IntegrityError, match='violates check constraint "positive"'):
            await connection.execute(
                text(
                    "DO $$ BEGIN CREATE TEMP TABLE t (n int CONSTRAINT positive CHECK (n > 0)); "
                    "INSERT INTO t VALUES (-1); END $$"
                )
            )
    await engine.dispose()


@pytest.mark.parametrize(
    "url",
    ["postgresql+asyncpg", "postgresql+psycopg", "mysql+asyncmy", "mysql+aiomysql"],
)
async def test_waiting_for_a_silent_server_ends_at_the_deadline(url, black_hole):
    seen = []
    with pytest.raises(DatabaseUnavailableError) as caught:
        async with asyncio.timeout(20):
            await wait_until_ready(
                f"{url}://ada:s3cret@127.0.0.1:{black_hole}/x",
                timeout_seconds=0.5,
                interval_seconds=0.05,
                progress=seen.append,
            )
    assert "s3cret" not in str(caught.value)
    assert caught.value.attempts >= 1


@pytest.mark.parametrize("url", ["postgresql+psycopg", "mysql+pymysql"])
def test_blocking_wait_for_a_silent_server_ends_at_the_deadline(url, black_hole):
    with pytest.raises(DatabaseUnavailableError) as caught:
        wait_until_ready_sync(
            f"{url}://ada:s3cret@127.0.0.1:{black_hole}/x", timeout_seconds=0.5, interval_seconds=0.05
        )
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("driver", PG_DRIVERS)
async def test_waiting_ends_when_the_server_answers(dotmac_database, driver):
    await wait_until_ready(dotmac_database.url(driver))
    engine = create_async_engine(dotmac_database.url(driver))
    await wait_until_ready(engine)
    await engine.dispose()
    wait_until_ready_sync(dotmac_database.url(driver))


@pytest.mark.parametrize("driver", PG_DRIVERS)
@pytest.mark.parametrize("wrong", [{"database": "no_such_database"}, {"username": "no_such_role"}])
async def test_waiting_ends_at_once_when_waiting_does_not_help(dotmac_database, driver, wrong):
    url = make_url(dotmac_database.url(driver)).set(**wrong)
    with pytest.raises(DatabaseUnavailableError, match="refuses") as caught:
        await wait_until_ready(url)
    assert caught.value.attempts == 1
    with pytest.raises(DatabaseUnavailableError, match="refuses"):
        wait_until_ready_sync(url)


@pytest.mark.parametrize(
    "wrong", [{"database": "no_such_database"}, {"password": "wrong", "username": "nobody_here"}]
)
async def test_waiting_for_mysql_ends_at_once_when_waiting_does_not_help(mysql_url, wrong):
    with pytest.raises(DatabaseUnavailableError, match="refuses"):
        await wait_until_ready(make_url(mysql_url).set(**wrong))
    with pytest.raises(DatabaseUnavailableError, match="refuses"):
        wait_until_ready_sync(make_url(mysql_url).set(**wrong))


@pytest.mark.parametrize("driver", ["asyncmy", "aiomysql"])
async def test_mysql_speaks_unicode_utc_and_strict_sql(mysql_url, driver):
    engine = create_async_engine(make_url(mysql_url).set(drivername=f"mysql+{driver}"))
    async with engine.connect() as connection:
        row = (
            await connection.execute(text("SELECT @@time_zone, @@character_set_client, @@sql_mode, '🎈'"))
        ).one()
    await engine.dispose()
    assert (row[0], row[1], row[3]) == ("+00:00", "utf8mb4", "🎈")
    assert "STRICT_ALL_TABLES" in row[2]


async def test_mysql_statement_timeout_ends_a_slow_statement(mysql_url):
    engine = create_async_engine(DatabaseSettings(url=mysql_url, statement_timeout=0.2))
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError):
            await connection.execute(text("SELECT SLEEP(20) FROM information_schema.tables"))
    await engine.dispose()


async def test_sqlite_file_waits_for_locks_and_enforces_foreign_keys(tmp_path):
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/a.db")
    async with engine.connect() as connection:
        values = [
            (await connection.execute(text(f"PRAGMA {name}"))).scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        ]
    await engine.dispose()
    assert values == ["wal", 1, 5000]


async def test_concurrent_tasks_on_a_memory_database_keep_their_transactions_apart():
    engine = create_async_engine("sqlite+aiosqlite:///:memory:")
    factory = create_session_factory(engine)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE counters (n integer)"))
        await connection.execute(text("INSERT INTO counters VALUES (0)"))

    async def add_one(number):
        async with with_async_session(factory) as session:
            n = (await session.execute(text("SELECT n FROM counters"))).scalar()
            await asyncio.sleep(0)
            await session.execute(text("UPDATE counters SET n = :n"), {"n": n + 1})
            if number % 2:
                raise RuntimeError

    results = await asyncio.gather(*(add_one(number) for number in range(40)), return_exceptions=True)
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT n FROM counters"))).scalar() == 20
    assert {type(result) for result in results} == {type(None), RuntimeError}
    await engine.dispose()


async def test_memory_database_outlives_a_cancelled_statement():
    engine = create_async_engine("sqlite+aiosqlite:///:memory:")
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE kept (n integer)"))
    slow = (
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 300000) SELECT count(*) FROM c"
    )

    async def work():
        async with engine.connect() as connection:
            await connection.execute(text(slow))

    task = asyncio.create_task(work())
    while not engine.pool.checkedout():  # noqa: ASYNC110 - the pool has no event for it
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM kept"))).scalar() == 0
    await engine.dispose()


async def test_second_connection_of_one_task_to_a_memory_database_is_refused_at_once():
    engine = create_async_engine("sqlite+aiosqlite:///:memory:")
    async with engine.connect():
        with pytest.raises(ConnectionPoolError, match="only connection"):
            await engine.connect()
    async with engine.connect() as connection:
        assert (await connection.execute(SELECT_1)).scalar() == 1
    await engine.dispose()


def test_memory_database_is_shared_by_threads_one_at_a_time():
    engine = create_engine("sqlite:///:memory:", pool_timeout=0.05)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE shared (n integer)"))
    outcome = []

    def other():
        try:
            with engine.connect() as connection:
                outcome.append(connection.execute(text("SELECT count(*) FROM shared")).scalar())
        except PoolTimeoutError:
            outcome.append("waited")

    for hold in (False, True):
        thread = threading.Thread(target=other)
        if hold:
            with engine.connect():
                thread.start()
                thread.join()
        else:
            thread.start()
            thread.join()
    engine.dispose()
    assert outcome == [0, "waited"]


async def test_two_memory_engines_are_two_databases():
    one, two = (create_async_engine("sqlite+aiosqlite:///:memory:") for _ in range(2))
    async with one.begin() as connection:
        await connection.execute(text("CREATE TABLE only_here (n integer)"))
    async with two.connect() as connection:
        with pytest.raises(DBAPIError):
            await connection.execute(text("SELECT * FROM only_here"))
    await one.dispose()
    await two.dispose()


async def test_read_sessions_go_to_the_replica(dotmac_postgres, dotmac_database, request):
    name = f"replica_{uuid.uuid4().hex[:12]}"
    dotmac_postgres.create_database(name)
    request.addfinalizer(lambda: dotmac_postgres.drop_database(name))
    settings = DatabaseSettings(url=dotmac_database.url(), read_url=dotmac_postgres.url(name))
    async with AsyncDatabase(settings) as database:
        async with database.read_session() as session:
            assert (await session.execute(text("SELECT current_database()"))).scalar() == name
        async with database.write_session() as session:
            assert (await session.execute(text("SELECT current_database()"))).scalar() == dotmac_database.name


def test_process_wide_database_comes_from_the_environment_and_serves_every_loop(dotmac_database, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", dotmac_database.url())
    _process_wide.cache_clear()

    async def work():
        async with get_async_db_connection().create_session() as session:
            return (await session.execute(text("SELECT current_database()"))).scalar()

    assert asyncio.run(work()) == asyncio.run(work()) == dotmac_database.name
    assert get_async_db_connection() is get_async_db_connection()
    _process_wide.cache_clear()


FORKING = """
import os, sys
from sqlalchemy import text
from dotmac.database.engine import Database

database = Database(sys.argv[1])

def server_session():
    with database.create_session() as session:
        return session.execute(text("SELECT pg_backend_pid()")).scalar()

before = server_session()
if (child := os.fork()) == 0:
    os._exit(int(server_session() == before))
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
assert server_session() == before
database.dispose()
"""


def test_forked_process_gets_connections_of_its_own(dotmac_database):
    subprocess.run([sys.executable, "-c", FORKING, dotmac_database.url("psycopg")], check=True, timeout=60)


async def test_sqlite_file_with_immediate_begin_serializes_writers_that_read_first(tmp_path):
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/a.db").execution_options(
        sqlite_begin="IMMEDIATE"
    )
    factory = create_session_factory(engine)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE counters (n integer)"))
        await connection.execute(text("INSERT INTO counters VALUES (0)"))

    async def add_one():
        async with with_async_session(factory) as session:
            n = (await session.execute(text("SELECT n FROM counters"))).scalar()
            await session.execute(text("UPDATE counters SET n = :n"), {"n": n + 1})

    await asyncio.gather(*(add_one() for _ in range(20)))
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT n FROM counters"))).scalar() == 20
    await engine.dispose()


def test_async_database_outside_a_loop_says_what_to_do():
    with pytest.raises(ConfigurationError, match=r"asyncio\.run"):
        _ = AsyncDatabase("sqlite+aiosqlite:///:memory:").engine
