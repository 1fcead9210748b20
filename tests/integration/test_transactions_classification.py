"""Every row of the classification table, produced by the servers themselves through every driver."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import uuid
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress

import asyncpg
import psycopg
import pymysql
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.pool import NullPool

from dotmac.database.embedded import EmbeddedPostgres
from dotmac.database.engine import create_async_engine, create_engine
from dotmac.database.transactions import ErrorKind, Phase, classify


class AsyncClient:
    """An asyncio driver through SQLAlchemy."""

    def __init__(self, url, isolation_level=None):
        self._url, self._isolation_level = url, isolation_level
        self._stack = AsyncExitStack()

    async def open(self):
        self._engine = create_async_engine(
            self._url, poolclass=NullPool, isolation_level=self._isolation_level
        )
        self._stack.push_async_callback(self._engine.dispose)
        self._connection = await self._stack.enter_async_context(self._engine.connect())

    async def execute(self, sql):
        result = await self._connection.execute(text(sql))
        return result.all() if result.returns_rows else None

    async def commit(self):
        await self._connection.commit()

    async def rollback(self):
        await self._connection.rollback()

    async def close(self):
        await self._stack.aclose()


class SyncClient:
    """A blocking driver through SQLAlchemy, on threads."""

    def __init__(self, url, isolation_level=None):
        self._url, self._isolation_level = url, isolation_level

    async def open(self):
        self._engine = create_engine(self._url, poolclass=NullPool, isolation_level=self._isolation_level)
        self._connection = await asyncio.to_thread(self._engine.connect)

    async def execute(self, sql):
        def run():
            result = self._connection.execute(text(sql))
            return result.all() if result.returns_rows else None

        return await asyncio.to_thread(run)

    async def commit(self):
        await asyncio.to_thread(self._connection.commit)

    async def rollback(self):
        await asyncio.to_thread(self._connection.rollback)

    async def close(self):
        if hasattr(self, "_connection"):
            await asyncio.to_thread(self._connection.close)
        self._engine.dispose()


class RawAsyncpg:
    """asyncpg by itself."""

    def __init__(self, url, isolation_level=None):
        self._url = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._isolation = (isolation_level or "read_committed").lower().replace(" ", "_")
        self._connection = self._transaction = None

    async def open(self):
        self._connection = await asyncpg.connect(self._url)

    async def execute(self, sql):
        if self._transaction is None:
            self._transaction = self._connection.transaction(isolation=self._isolation)
            await self._transaction.start()
        return await self._connection.fetch(sql)

    async def commit(self):
        await self._transaction.commit()
        self._transaction = None

    async def rollback(self):
        if self._transaction is not None:
            await self._transaction.rollback()
            self._transaction = None

    async def close(self):
        if self._connection is not None:
            self._connection.terminate()


class RawBlocking:
    """A blocking driver by itself, on threads."""

    _connection = None

    def __init__(self, url, isolation_level=None):
        self._url, self._isolation_level = make_url(url), isolation_level

    def _connect(self):
        raise NotImplementedError

    async def open(self):
        self._connection = await asyncio.to_thread(self._connect)

    async def execute(self, sql):
        def run():
            cursor = self._connection.cursor()
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else None

        return await asyncio.to_thread(run)

    async def commit(self):
        await asyncio.to_thread(self._connection.commit)

    async def rollback(self):
        await asyncio.to_thread(self._connection.rollback)

    async def close(self):
        if self._connection is not None:
            await asyncio.to_thread(self._connection.close)


class RawPsycopg(RawBlocking):
    """psycopg by itself."""

    def _connect(self):
        connection = psycopg.connect(
            self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        )
        if self._isolation_level:
            connection.isolation_level = psycopg.IsolationLevel[self._isolation_level.replace(" ", "_")]
        return connection


class RawPyMySQL(RawBlocking):
    """PyMySQL by itself."""

    def _connect(self):
        url = self._url
        return pymysql.connect(
            host=url.host,
            port=url.port or 3306,
            user=url.username,
            password=url.password or "",
            database=url.database,
        )


PG_CLIENTS = {
    "asyncpg": (AsyncClient, "asyncpg"),
    "psycopg-async": (AsyncClient, "psycopg"),
    "psycopg": (SyncClient, "psycopg"),
    "raw-asyncpg": (RawAsyncpg, "asyncpg"),
    "raw-psycopg": (RawPsycopg, "psycopg"),
}
MYSQL_CLIENTS = {
    "asyncmy": (AsyncClient, "asyncmy"),
    "aiomysql": (AsyncClient, "aiomysql"),
    "pymysql": (SyncClient, "pymysql"),
    "raw-pymysql": (RawPyMySQL, "pymysql"),
}


class Clients:
    """Opens clients of one kind, and closes them all."""

    def __init__(self, kind, url):
        self.kind, self.url, self._opened = kind, url, []
        self.driver = make_url(url).get_driver_name()

    async def open(self, isolation_level=None, url=None):
        client = self.kind(url or self.url, isolation_level)
        self._opened.append(client)
        await client.open()
        return client

    async def close(self):
        for client in self._opened:
            with suppress(Exception):  # its server is gone on purpose
                await client.close()


@asynccontextmanager
async def clients_of(kinds, name, url_for):
    kind, driver = kinds[name]
    clients = Clients(kind, url_for(driver))
    try:
        yield clients
    finally:
        await clients.close()


@pytest.fixture(params=PG_CLIENTS)
async def pg(request, dotmac_database):
    async with clients_of(PG_CLIENTS, request.param, dotmac_database.url) as clients:
        yield clients


async def verdict_of(work, phase=None):
    """What the error of ``work`` is classified as."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 - which one differs by driver, that is the point
        await work
    return classify(raised.value, phase)


@pytest.fixture
async def table(dotmac_database):
    name = f"rows_{uuid.uuid4().hex[:8]}"
    connection = await asyncpg.connect(dotmac_database.url(None))
    await connection.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, value int)")
    await connection.execute(f"INSERT INTO {name} VALUES (1, 0), (2, 0)")  # noqa: S608
    await connection.close()
    return name  # it goes with the database: at the end of a test others may still hold locks on it


def update(table, row):
    return f"UPDATE {table} SET value = value + 1 WHERE id = {row}"  # noqa: S608 - a constant


async def deadlock(clients, table):
    first, second = await clients.open(), await clients.open()
    await first.execute(update(table, 1))
    await second.execute(update(table, 2))

    async def finish(client, row):
        await client.execute(update(table, row))
        await client.rollback()

    results = await asyncio.gather(finish(first, 2), finish(second, 1), return_exceptions=True)
    (error,) = [result for result in results if result is not None]
    return classify(error)


async def test_a_deadlock_is_a_conflict(pg, table):
    verdict = await deadlock(pg, table)
    assert (verdict.kind, verdict.code, verdict.retryable) == (ErrorKind.CONFLICT, "40P01", True)
    assert not verdict.connectivity
    assert not verdict.disconnect


async def test_a_serialization_failure_is_a_conflict(pg, table):
    first, second = await pg.open("REPEATABLE READ"), await pg.open()
    await first.execute(f"SELECT * FROM {table}")  # noqa: S608
    await second.execute(update(table, 1))
    await second.commit()
    verdict = await verdict_of(first.execute(update(table, 1)))
    assert (verdict.kind, verdict.code, verdict.phase) == (ErrorKind.CONFLICT, "40001", Phase.STATEMENT)


async def test_a_serialization_failure_at_commit_is_a_conflict_and_not_in_doubt(pg, table):
    first, second = await pg.open("SERIALIZABLE"), await pg.open("SERIALIZABLE")
    for client, row in ((first, 1), (second, 2)):
        await client.execute(f"SELECT sum(value) FROM {table}")  # noqa: S608
        await client.execute(update(table, row))
    await first.commit()
    verdict = await verdict_of(second.commit())
    assert (verdict.kind, verdict.code, verdict.phase) == (ErrorKind.CONFLICT, "40001", Phase.COMMIT)
    assert verdict.retryable


async def test_a_deferred_constraint_at_commit_is_the_applications(pg, table):
    client = await pg.open()
    await client.execute(
        f"CREATE TEMPORARY TABLE child (parent int UNIQUE DEFERRABLE INITIALLY DEFERRED)"  # noqa: F541
    )
    await client.execute("INSERT INTO child VALUES (1), (1)")
    verdict = await verdict_of(client.commit())
    assert (verdict.kind, verdict.code, verdict.phase) == (ErrorKind.DUPLICATE, "23505", Phase.COMMIT)
    assert verdict.application


@pytest.mark.parametrize("how", ["NOWAIT", "lock_timeout"])
async def test_a_lock_timeout_is_told_apart(pg, table, how):
    first, second = await pg.open(), await pg.open()
    await first.execute(update(table, 1))
    if how == "NOWAIT":
        verdict = await verdict_of(second.execute(f"SELECT * FROM {table} WHERE id = 1 FOR UPDATE NOWAIT"))  # noqa: S608
    else:
        await second.execute("SET LOCAL lock_timeout = 20")
        verdict = await verdict_of(second.execute(update(table, 1)))
    assert (verdict.kind, verdict.code, verdict.retryable) == (ErrorKind.LOCK_TIMEOUT, "55P03", True)


async def test_a_statement_timeout_is_not_retried(pg):
    client = await pg.open()
    await client.execute("SET LOCAL statement_timeout = 20")
    verdict = await verdict_of(client.execute("SELECT pg_sleep(30)"))
    assert (verdict.kind, verdict.code, verdict.retryable) == (ErrorKind.TIMEOUT, "57014", False)
    assert not verdict.connectivity


async def backend_of(client):
    ((pid,),) = await client.execute("SELECT pg_backend_pid()")
    return pid


async def test_a_terminated_idle_backend_is_a_disconnect(pg, dotmac_postgres):
    client = await pg.open()
    dotmac_postgres.execute(f"SELECT pg_terminate_backend({await backend_of(client)}, 5000)")
    verdict = await verdict_of(client.execute("SELECT 1"))
    assert (verdict.kind, verdict.retryable) == (ErrorKind.DISCONNECTED, True)
    assert verdict.disconnect
    assert verdict.connectivity


async def test_a_backend_terminated_in_a_statement_is_a_disconnect(pg):
    client = await pg.open()
    verdict = await verdict_of(client.execute("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert (verdict.kind, verdict.disconnect) == (ErrorKind.DISCONNECTED, True)
    assert verdict.code in {"57P01", "08003"}  # asyncpg does not pass on what the server said last


async def test_a_transaction_left_idle_for_too_long_is_a_disconnect(pg):
    client = await pg.open()
    pid = await backend_of(client)
    await client.execute("SET LOCAL idle_in_transaction_session_timeout = 1")
    await gone(pg, pid)
    verdict = await verdict_of(client.execute("SELECT 1"))
    assert (verdict.kind, verdict.disconnect) == (ErrorKind.DISCONNECTED, True)


async def gone(clients, pid):
    watcher = await clients.open()
    async with asyncio.timeout(20):
        while await watcher.execute(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid}"):  # noqa: S608
            await watcher.rollback()  # the view is a snapshot of the transaction


async def test_a_transaction_timeout_ends_the_connection_and_is_not_retried(pg):
    client = await pg.open()
    ((version,),) = await client.execute("SELECT current_setting('server_version_num')::int")
    if version < 170000:
        pytest.skip("transaction_timeout is new in PostgreSQL 17")
    await client.execute("SET LOCAL transaction_timeout = 20")
    verdict = await verdict_of(client.execute("SELECT pg_sleep(30)"))
    assert verdict.disconnect
    if pg.driver != "asyncpg":  # which does not pass on what the server said last
        assert (verdict.kind, verdict.code) == (ErrorKind.TIMEOUT, "25P04")
        assert not verdict.connectivity


async def test_a_write_in_a_read_only_transaction_is_refused_by_a_node_that_reads(pg, table):
    client = await pg.open()
    await client.execute("SET TRANSACTION READ ONLY")
    verdict = await verdict_of(client.execute(update(table, 1)))
    assert (verdict.kind, verdict.code, verdict.read_only_node) == (ErrorKind.READ_ONLY_NODE, "25006", True)


async def test_a_duplicate_key_is_the_applications(pg, table):
    client = await pg.open()
    verdict = await verdict_of(client.execute(f"INSERT INTO {table} VALUES (1, 1)"))  # noqa: S608
    assert (verdict.kind, verdict.code, verdict.application) == (ErrorKind.DUPLICATE, "23505", True)
    assert not verdict.retryable


async def test_an_exclusion_violation_is_the_applications(pg):
    client = await pg.open()
    await client.execute("CREATE TEMPORARY TABLE booked (at int4range, EXCLUDE USING gist (at WITH &&))")
    await client.execute("INSERT INTO booked VALUES ('[1,3)')")
    verdict = await verdict_of(client.execute("INSERT INTO booked VALUES ('[2,4)')"))
    assert (verdict.kind, verdict.code) == (ErrorKind.DUPLICATE, "23P01")


@pytest.mark.parametrize(
    ("sql", "code"),
    [("SELEC 1", "42601"), ("SELECT 1/0", "22012"), ("SELECT * FROM nowhere_at_all", "42P01")],
)
async def test_a_wrong_statement_is_the_applications(pg, sql, code):
    client = await pg.open()
    verdict = await verdict_of(client.execute(sql))
    assert (verdict.kind, verdict.code, verdict.application) == (ErrorKind.APPLICATION, code, True)
    second = await verdict_of(client.execute("SELECT 1"))  # in the failed transaction
    assert (second.kind, second.code) == (ErrorKind.APPLICATION, "25P02")


async def test_a_cached_plan_after_alter_is_stale(pg, table):
    client, other = await pg.open(), await pg.open()
    for _ in range(7):  # psycopg prepares at the sixth time
        await client.execute(f"SELECT * FROM {table}")  # noqa: S608
    await client.commit()
    await other.execute(f"ALTER TABLE {table} ADD COLUMN more int")
    await other.commit()
    await client.execute("SELECT 1")
    verdict = await verdict_of(client.execute(f"SELECT * FROM {table}"))  # noqa: S608
    assert (verdict.kind, verdict.code, verdict.retryable) == (ErrorKind.STALE_PLAN, "0A000", True)


async def test_another_unsupported_feature_is_the_applications(pg, dotmac_database):
    client = await pg.open()
    verdict = await verdict_of(client.execute(f"ALTER TABLE pg_class RENAME TO {dotmac_database.name}"))
    assert verdict.application


async def test_a_refused_connection_is_unreachable(pg):
    address = make_url(pg.url).set(host="127.0.0.1", port=1).render_as_string(hide_password=False)
    verdict = await verdict_of(pg.open(url=address))
    assert (verdict.kind, verdict.retryable, verdict.connectivity) == (ErrorKind.UNREACHABLE, True, True)


async def test_an_unknown_host_is_unreachable(pg):
    address = make_url(pg.url).set(host="nowhere.invalid").render_as_string(hide_password=False)
    verdict = await verdict_of(pg.open(url=address), Phase.CONNECT)
    assert (verdict.kind, verdict.connectivity) == (ErrorKind.UNREACHABLE, True)


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        ({"password": "wrong"}, {"28P01", "28000"}),
        ({"username": "nobody_at_all", "password": "x"}, {"28P01", "28000"}),
        ({"database": "no_such_database"}, {"3D000"}),
    ],
    ids=["password", "user", "database"],
)
async def test_a_refusal_that_no_waiting_changes_is_the_applications(small_server, pg_name, change, codes):
    async with clients_of(PG_CLIENTS, pg_name, lambda driver: small_server.url(driver=driver)) as clients:
        address = make_url(clients.url).set(**change).render_as_string(hide_password=False)
        verdict = await verdict_of(clients.open(url=address))
    assert verdict.application
    assert verdict.code in codes
    assert not verdict.connectivity


@pytest.fixture(scope="module")
def small_server():
    settings = {"max_connections": "6", "superuser_reserved_connections": "1", "reserved_connections": "0"}
    with EmbeddedPostgres(settings=settings) as server:
        yield server


@pytest.fixture(params=PG_CLIENTS)
def pg_name(request):
    return request.param


async def test_a_server_out_of_connections_is_unreachable_and_worth_waiting_for(small_server, pg_name):
    async with clients_of(PG_CLIENTS, pg_name, lambda driver: small_server.url(driver=driver)) as clients:

        async def take_all():
            for _ in range(7):
                await clients.open()

        verdict = await verdict_of(take_all())
    assert (verdict.kind, verdict.code, verdict.retryable) == (ErrorKind.UNREACHABLE, "53300", True)


async def test_a_server_that_shuts_down_is_unreachable(pg_name):
    with EmbeddedPostgres() as server:
        async with clients_of(PG_CLIENTS, pg_name, lambda driver: server.url(driver=driver)) as clients:
            await clients.open()  # keeps the smart shutdown waiting
            with server_signalled(server, signal.SIGTERM):
                async with asyncio.timeout(20):
                    verdict = None
                    while verdict is None or verdict.code != "57P03":
                        verdict = await verdict_or_none(clients)
    assert (verdict.kind, verdict.retryable) == (ErrorKind.UNREACHABLE, True)


async def verdict_or_none(clients):
    try:
        await clients.open()
    except Exception as error:  # noqa: BLE001 - classified
        return classify(error)
    return None


@contextmanager
def server_signalled(server, number):
    os.kill(server.pid, number)
    yield


async def test_every_connection_of_a_killed_server_is_a_disconnect(pg_name):
    with EmbeddedPostgres() as server:
        async with clients_of(PG_CLIENTS, pg_name, lambda driver: server.url(driver=driver)) as clients:
            client = await clients.open()
            await client.execute("SELECT 1")
            server.kill()
            verdict = await verdict_of(client.execute("SELECT 1"))
    assert (verdict.kind, verdict.disconnect, verdict.connectivity) == (ErrorKind.DISCONNECTED, True, True)


async def test_a_server_that_only_reads_is_told_apart(pg_name):
    with EmbeddedPostgres() as server:
        server.address.execute("ALTER DATABASE app SET default_transaction_read_only = on")
        async with clients_of(PG_CLIENTS, pg_name, lambda driver: server.url(driver=driver)) as clients:
            client = await clients.open()
            verdict = await verdict_of(client.execute("CREATE TABLE t (i int)"))
    assert (verdict.kind, verdict.code) == (ErrorKind.READ_ONLY_NODE, "25006")


@pytest.mark.parametrize("fault", ["swallow_commit_acknowledgement", "cut_before_commit"])
async def test_a_connection_lost_during_commit_leaves_it_in_doubt(
    pg_name, dotmac_database, dotmac_fault_proxy, fault
):
    def through(driver):
        return dotmac_fault_proxy.url(dotmac_database.url(driver))

    async with clients_of(PG_CLIENTS, pg_name, through) as clients:
        client = await clients.open()
        await client.execute("SELECT 1")
        getattr(dotmac_fault_proxy, fault)()
        verdict = await verdict_of(client.commit())
    assert (verdict.kind, verdict.phase) == (ErrorKind.AMBIGUOUS_COMMIT, Phase.COMMIT)
    assert verdict.ambiguous_commit
    assert not verdict.retryable
    assert verdict.connectivity


async def test_a_connection_reset_in_a_statement_is_a_disconnect(
    pg_name, dotmac_database, dotmac_fault_proxy
):
    def through(driver):
        return dotmac_fault_proxy.url(dotmac_database.url(driver))

    async with clients_of(PG_CLIENTS, pg_name, through) as clients:
        client = await clients.open()
        await client.execute("SELECT 1")
        dotmac_fault_proxy.black_hole("to_client")
        waiting = asyncio.ensure_future(client.execute("SELECT 1"))
        await asyncio.sleep(0.05)
        dotmac_fault_proxy.cut_all()
        verdict = await verdict_of(waiting)
    assert (verdict.kind, verdict.retryable, verdict.disconnect) == (ErrorKind.DISCONNECTED, True, True)


async def test_a_callers_deadline_during_commit_leaves_it_in_doubt(dotmac_database, dotmac_fault_proxy):
    client = AsyncClient(dotmac_fault_proxy.url(dotmac_database.url("asyncpg")))
    await client.open()
    await client.execute("SELECT 1")
    dotmac_fault_proxy.black_hole("to_client")

    async def hurried():
        async with asyncio.timeout(0.05):
            await client.commit()

    verdict = await verdict_of(hurried())
    dotmac_fault_proxy.heal()
    await client.close()
    assert verdict.kind is ErrorKind.AMBIGUOUS_COMMIT


async def test_a_deadline_of_other_work_says_nothing_about_the_database():
    async def other_service():
        async with asyncio.timeout(0.01):
            await asyncio.sleep(30)

    verdict = await verdict_of(other_service())
    assert verdict.application


# MySQL and MariaDB


@pytest.fixture(params=MYSQL_CLIENTS)
async def mysql(request, mysql_url):
    def url_for(driver):
        return make_url(mysql_url).set(drivername=f"mysql+{driver}").render_as_string(hide_password=False)

    async with clients_of(MYSQL_CLIENTS, request.param, url_for) as clients:
        yield clients


@pytest.fixture
async def mysql_table(mysql):
    client = await mysql.open()
    name = f"rows_{uuid.uuid4().hex[:8]}"
    await client.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, value int) ENGINE=InnoDB")
    await client.execute(f"INSERT INTO {name} VALUES (1, 0), (2, 0)")  # noqa: S608
    await client.commit()
    yield name
    await mysql.close()
    client = await mysql.open()
    await client.execute(f"DROP TABLE {name}")


async def test_mysql_a_deadlock_is_a_conflict(mysql, mysql_table):
    verdict = await deadlock(mysql, mysql_table)
    assert (verdict.kind, verdict.code) == (ErrorKind.CONFLICT, "1213")


async def test_mysql_a_lock_timeout_is_told_apart(mysql, mysql_table):
    first, second = await mysql.open(), await mysql.open()
    await first.execute(update(mysql_table, 1))
    await second.execute("SET SESSION innodb_lock_wait_timeout = 1")
    verdict = await verdict_of(second.execute(update(mysql_table, 1)))
    assert (verdict.kind, verdict.code, verdict.retryable) == (ErrorKind.LOCK_TIMEOUT, "1205", True)


async def test_mysql_a_read_only_transaction_is_told_apart(mysql, mysql_table):
    client = await mysql.open()
    await client.execute("SET SESSION TRANSACTION READ ONLY")
    await client.commit()
    verdict = await verdict_of(client.execute(update(mysql_table, 1)))
    assert (verdict.kind, verdict.code) == (ErrorKind.READ_ONLY_NODE, "1792")


async def test_mysql_a_killed_connection_is_a_disconnect(mysql):
    client, killer = await mysql.open(), await mysql.open()
    ((number,),) = await client.execute("SELECT connection_id()")
    await killer.execute(f"KILL {number}")
    verdict = await verdict_of(client.execute("SELECT 1"))
    assert (verdict.kind, verdict.disconnect, verdict.connectivity) == (ErrorKind.DISCONNECTED, True, True)


async def test_mysql_a_connection_killed_before_commit_leaves_it_in_doubt(mysql, mysql_table):
    client, killer = await mysql.open(), await mysql.open()
    await client.execute(update(mysql_table, 1))
    ((number,),) = await client.execute("SELECT connection_id()")
    await killer.execute(f"KILL {number}")
    verdict = await verdict_of(client.commit())
    assert verdict.kind is ErrorKind.AMBIGUOUS_COMMIT


async def test_mysql_a_refused_connection_is_unreachable(mysql):
    address = make_url(mysql.url).set(host="127.0.0.1", port=1).render_as_string(hide_password=False)
    verdict = await verdict_of(mysql.open(url=address))
    assert (verdict.kind, verdict.code, verdict.connectivity) == (ErrorKind.UNREACHABLE, "2003", True)


async def test_mysql_a_duplicate_key_is_the_applications(mysql, mysql_table):
    client = await mysql.open()
    verdict = await verdict_of(client.execute(f"INSERT INTO {mysql_table} VALUES (1, 1)"))  # noqa: S608
    assert (verdict.kind, verdict.code) == (ErrorKind.DUPLICATE, "1062")


async def test_mysql_a_statement_timeout_is_not_retried(mysql):
    client = await mysql.open()
    ((version,),) = await client.execute("SELECT version()")
    if "MariaDB" not in version:
        pytest.skip("max_statement_time is MariaDB's")
    await client.execute("SET SESSION max_statement_time = 0.05")
    verdict = await verdict_of(
        client.execute(
            "SELECT count(*) FROM information_schema.columns a, information_schema.columns b, information_schema.columns c"
        )
    )
    assert (verdict.kind, verdict.code) == (ErrorKind.TIMEOUT, "1969")


async def test_mysql_a_wrong_password_is_the_applications(mysql):
    address = (
        make_url(mysql.url).set(username="nobody_here", password="x").render_as_string(hide_password=False)
    )
    verdict = await verdict_of(mysql.open(url=address))
    assert (verdict.application, verdict.code) == (True, "1045")


# SQLite


@pytest.fixture(params=["pysqlite", "aiosqlite"])
async def sqlite(request, tmp_path):
    kind = SyncClient if request.param == "pysqlite" else AsyncClient
    clients = Clients(kind, f"sqlite+{request.param}:///{tmp_path}/test.db")
    client = await clients.open()
    await client.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await client.commit()
    yield clients
    await clients.close()


async def test_sqlite_busy_is_a_conflict(sqlite):
    first, second = await sqlite.open(), await sqlite.open()
    await second.execute("PRAGMA busy_timeout = 20")
    await second.commit()
    await first.execute("INSERT INTO t VALUES (1)")
    verdict = await verdict_of(second.execute("INSERT INTO t VALUES (2)"))
    assert (verdict.kind, verdict.code, verdict.retryable) == (ErrorKind.CONFLICT, "5", True)


async def test_sqlite_a_stale_snapshot_is_a_conflict(sqlite):
    first, second = await sqlite.open(), await sqlite.open()
    await first.execute("SELECT * FROM t")
    await second.execute("INSERT INTO t VALUES (1)")
    await second.commit()
    verdict = await verdict_of(first.execute("INSERT INTO t VALUES (2)"))
    assert (verdict.kind, verdict.code, verdict.retryable) == (ErrorKind.CONFLICT, "517", True)


async def test_sqlite_a_duplicate_key_is_the_applications(sqlite):
    client = await sqlite.open()
    await client.execute("INSERT INTO t VALUES (1)")
    verdict = await verdict_of(client.execute("INSERT INTO t VALUES (1)"))
    assert (verdict.kind, verdict.code) == (ErrorKind.DUPLICATE, str(sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY))


async def test_sqlite_a_read_only_database_is_told_apart(sqlite):
    client = await sqlite.open()
    await client.execute("PRAGMA query_only = ON")
    await client.commit()
    verdict = await verdict_of(client.execute("INSERT INTO t VALUES (1)"))
    assert (verdict.kind, verdict.code) == (ErrorKind.READ_ONLY_NODE, "8")


async def test_an_error_raised_from_a_drivers_keeps_its_meaning(pg, table):
    first, second = await pg.open(), await pg.open()
    await first.execute(update(table, 1))
    try:
        await second.execute(f"SELECT * FROM {table} WHERE id = 1 FOR UPDATE NOWAIT")  # noqa: S608
    except Exception as error:  # noqa: BLE001 - whatever the driver's class
        translated = RuntimeError("The row is taken.")
        translated.__cause__ = error
    assert classify(translated).kind is ErrorKind.LOCK_TIMEOUT
