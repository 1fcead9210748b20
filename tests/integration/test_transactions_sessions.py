# ruff: noqa: PT012, SIM117 - what is raised comes at the end of a block, and some blocks read better nested
"""Transactions and retries on real sessions of every driver, blocking and asyncio."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from sqlalchemy import event, make_url, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, InvalidRequestError

import dotmac.database
from dotmac.database.engine import AsyncDatabase, Database, create_engine
from dotmac.database.errors import (
    CircuitOpenError,
    CommitFailedError,
    CommitOutcomeUnknownError,
    ConfigurationError,
    TransactionStateError,
)
from dotmac.database.transactions import (
    AsyncDatabaseTransaction,
    CircuitBreaker,
    DatabaseTransaction,
    ErrorKind,
    RetryBudget,
    RetryPolicy,
    TransactionManager,
    classify,
    database_error_handler,
    with_retry,
)

QUICK = RetryPolicy(max_attempts=4, base_delay=0)
ASYNC_DRIVERS = ["asyncpg", "psycopg", "aiosqlite", "asyncmy", "aiomysql"]
SYNC_DRIVERS = ["psycopg", "pysqlite", "pymysql"]


def url_for(driver, request, tmp_path):
    if driver in {"asyncpg", "psycopg"}:
        return request.getfixturevalue("dotmac_database").url(driver)
    if driver.endswith("sqlite"):
        return f"sqlite+{driver}:///{tmp_path}/test.db"
    mysql = make_url(request.getfixturevalue("mysql_url"))
    return mysql.set(drivername=f"mysql+{driver}").render_as_string(hide_password=False)


class Table:
    """One table of numbers."""

    def __init__(self):
        self.name = f"numbers_{uuid.uuid4().hex[:8]}"
        self.create = text(f"CREATE TABLE {self.name} (n int PRIMARY KEY)")
        self.drop = text(f"DROP TABLE {self.name}")

    def insert(self, number):
        return text(f"INSERT INTO {self.name} VALUES ({number})")  # noqa: S608

    def all(self):
        return text(f"SELECT n FROM {self.name} ORDER BY n")  # noqa: S608


@pytest.fixture
def table():
    return Table()


@pytest.fixture(params=ASYNC_DRIVERS)
async def database(request, tmp_path, table):
    async with AsyncDatabase(url_for(request.param, request, tmp_path)) as made:
        async with made.create_session() as session:
            await session.execute(table.create)
        yield made
        async with made.create_session() as session:
            await session.execute(table.drop)


@pytest.fixture(params=SYNC_DRIVERS)
def sync_database(request, tmp_path, table):
    with Database(url_for(request.param, request, tmp_path)) as made:
        with made.create_session() as session:
            session.execute(table.create)
        yield made
        with made.create_session() as session:
            session.execute(table.drop)


@pytest.fixture
def postgres(dotmac_database):
    return dotmac_database.url


async def numbers(database, table):
    async with database.create_session() as session:
        return list(await session.scalars(table.all()))


def sync_numbers(database, table):
    with database.create_session() as session:
        return list(session.scalars(table.all()))


class TransientError(Exception):
    """A deadlock, as a driver would report it."""

    sqlstate = "40P01"


# One transaction


async def test_a_block_commits_at_its_end_and_then_runs_its_hooks(database, table):
    ran = []

    async def later():
        ran.append(await numbers(database, table))

    async with database.session_factory() as session:
        async with DatabaseTransaction.async_transaction(session) as tx:
            assert isinstance(tx, AsyncDatabaseTransaction)
            tx.after_commit(later)
            tx.after_commit(lambda: ran.append("plain"))
            tx.after_rollback(lambda: ran.append("never"))
            await tx.execute(table.insert(1))
            assert ran == []
        assert ran == [[1], "plain"]
        assert not session.in_transaction()


async def test_a_block_rolls_back_after_an_error_and_a_cancellation(database, table):
    ran = []
    async with database.session_factory() as session:
        for error in (ValueError(), asyncio.CancelledError()):
            with pytest.raises(type(error)):
                async with DatabaseTransaction.async_transaction(session) as tx:
                    tx.after_commit(lambda: ran.append("never"))
                    tx.after_rollback(lambda: ran.append("rolled back"))
                    await session.execute(table.insert(1))
                    raise error
    assert await numbers(database, table) == []
    assert ran == ["rolled back", "rolled back"]


def test_a_blocking_block_commits_or_rolls_back(sync_database, table):
    ran = []
    with sync_database.session_factory() as session:
        with DatabaseTransaction.sync_transaction(session) as tx:
            tx.after_commit(lambda: ran.append(sync_numbers(sync_database, table)))
            session.execute(table.insert(1))
        with pytest.raises(ValueError, match="out"), DatabaseTransaction.sync_transaction(session) as tx:
            tx.after_rollback(lambda: ran.append("rolled back"))
            session.execute(table.insert(2))
            raise ValueError("out")
    assert ran == [[1], "rolled back"]
    assert sync_numbers(sync_database, table) == [1]


async def test_savepoints_nest_and_take_their_hooks_with_them(database, table):
    ran = []
    async with database.session_factory() as session, DatabaseTransaction.async_transaction(session) as tx:
        await session.execute(table.insert(1))
        with pytest.raises(ValueError, match="inner"):
            async with tx.savepoint() as inner:
                inner.after_commit(lambda: ran.append("never"))
                inner.after_rollback(lambda: ran.append("inner undone"))
                await session.execute(table.insert(2))
                raise ValueError("inner")
        async with DatabaseTransaction.async_transaction(session) as nested, nested.savepoint() as deep:
            deep.after_commit(lambda: ran.append("committed"))
            await session.execute(table.insert(3))
        assert ran == ["inner undone"]
    assert ran == ["inner undone", "committed"]
    assert await numbers(database, table) == [1, 3]


def test_blocking_savepoints_nest(sync_database, table):
    with sync_database.session_factory() as session, DatabaseTransaction.sync_transaction(session) as tx:
        session.execute(table.insert(1))
        with pytest.raises(DBAPIError), tx.savepoint():
            session.execute(table.insert(1))
        with DatabaseTransaction.sync_transaction(session):
            session.execute(table.insert(2))
    assert sync_numbers(sync_database, table) == [1, 2]


async def test_a_failing_hook_is_logged_and_undoes_nothing(database, table, caplog):
    ran = []

    def broken():
        raise RuntimeError("hook")

    async with database.session_factory() as session, DatabaseTransaction.async_transaction(session) as tx:
        tx.after_commit(broken)
        tx.after_commit(lambda: ran.append("next"))
        await session.execute(table.insert(1))
    assert ran == ["next"]
    assert await numbers(database, table) == [1]
    assert "nothing is undone" in caplog.text


async def test_a_transaction_begun_by_a_query_is_taken_over_and_committed(database, table):
    async with database.session_factory() as session:
        await session.execute(table.all())
        async with DatabaseTransaction.async_transaction(session):
            await session.execute(table.insert(1))
    assert await numbers(database, table) == [1]


async def test_in_a_transaction_that_somebody_else_began_it_is_a_savepoint(database, table):
    async with database.session_factory() as session:
        async with session.begin() as outer:
            async with DatabaseTransaction.async_transaction(session) as tx:
                assert tx.is_savepoint
                with pytest.raises(TransactionStateError, match=r"session\.begin"):
                    tx.after_commit(print)
                await session.execute(table.insert(1))
            await outer.rollback()
    assert await numbers(database, table) == []


async def test_a_commit_inside_is_refused_before_it_is_sent(database, table):
    async with database.session_factory() as session:
        with pytest.raises(TransactionStateError, match="Nothing was committed"):
            async with DatabaseTransaction.async_transaction(session):
                await session.execute(table.insert(1))
                await session.commit()
        assert await numbers(database, table) == []
        async with DatabaseTransaction.async_transaction(session):
            await session.execute(table.insert(2))
    assert await numbers(database, table) == [2]


async def test_a_rollback_inside_is_an_error_at_the_end(database, table):
    async with database.session_factory() as session:
        with pytest.raises(TransactionStateError, match="ended its transaction"):
            async with DatabaseTransaction.async_transaction(session):
                await session.execute(table.insert(1))
                await session.rollback()
    assert await numbers(database, table) == []


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_an_error_that_was_swallowed_is_an_error_at_the_end(postgres, driver):
    async with AsyncDatabase(postgres(driver)) as database, database.session_factory() as session:
        with pytest.raises(TransactionStateError, match="caught and not raised"):
            async with DatabaseTransaction.async_transaction(session):
                with pytest.raises(DBAPIError):
                    await session.execute(text("SELECT 1/0"))


async def test_an_error_that_breaks_nothing_may_be_swallowed(tmp_path, table):
    async with AsyncDatabase(f"sqlite+aiosqlite:///{tmp_path}/s.db") as database:
        async with database.create_session() as session:
            await session.execute(table.create)
        async with database.session_factory() as session, DatabaseTransaction.async_transaction(session):
            await session.execute(table.insert(1))
            with pytest.raises(DBAPIError):
                await session.execute(table.insert(1))
        assert await numbers(database, table) == [1]


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_refused_commit_is_told_with_its_code(postgres, driver):
    ran = []
    async with AsyncDatabase(postgres(driver)) as database, database.session_factory() as session:
        with pytest.raises(CommitFailedError, match="23505") as raised:
            async with DatabaseTransaction.async_transaction(session) as tx:
                tx.after_rollback(lambda: ran.append("rolled back"))
                await session.execute(
                    text("CREATE TEMPORARY TABLE d (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
                )
                await session.execute(text("INSERT INTO d VALUES (1), (1)"))
        assert isinstance(raised.value.__cause__, DBAPIError)
        assert await session.scalar(text("SELECT 1")) == 1
    assert ran == ["rolled back"]


# SQLAlchemy's, about the database that had committed.
@pytest.mark.filterwarnings("ignore:transaction already deassociated")
def test_a_commit_refused_by_one_of_several_databases_is_in_doubt(postgres, tmp_path):
    with Database(postgres("psycopg")) as first, Database(f"sqlite:///{tmp_path}/second.db") as second:
        with first.session_factory() as session, pytest.raises(CommitOutcomeUnknownError, match="several"):
            with DatabaseTransaction.sync_transaction(session):
                session.connection(bind_arguments={"bind": second.engine}).execute(
                    text("CREATE TABLE t (n int)")
                )
                connection = session.connection()
                connection.execute(
                    text("CREATE TEMPORARY TABLE d (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
                )
                connection.execute(text("INSERT INTO d VALUES (1), (1)"))


async def test_isolation_level_and_read_only_hold_for_the_transaction_alone(postgres):
    async with (
        AsyncDatabase(postgres("asyncpg"), pool_size=1) as database,
        database.session_factory() as session,
    ):
        async with DatabaseTransaction.async_transaction(
            session, isolation_level="SERIALIZABLE", read_only=True
        ):
            assert await session.scalar(text("SHOW transaction_isolation")) == "serializable"
            assert await session.scalar(text("SHOW transaction_read_only")) == "on"
        async with DatabaseTransaction.async_transaction(session):
            assert await session.scalar(text("SHOW transaction_isolation")) == "read committed"
            assert await session.scalar(text("SHOW transaction_read_only")) == "off"


def test_a_read_only_transaction_refuses_writes(sync_database, table):
    with sync_database.session_factory() as session:
        with (
            pytest.raises(DBAPIError) as raised,
            DatabaseTransaction.sync_transaction(session, read_only=True),
        ):
            session.execute(table.insert(1))
        assert classify(raised.value).read_only_node
        with DatabaseTransaction.sync_transaction(session):
            session.execute(table.insert(2))
    assert sync_numbers(sync_database, table) == [2]


def test_read_only_is_refused_where_the_engine_cannot_keep_it(tmp_path):
    import sqlalchemy  # noqa: PLC0415
    from sqlalchemy.orm import Session  # noqa: PLC0415

    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/plain.db")
    with (
        Session(engine) as session,
        pytest.raises(ConfigurationError, match="create_engine"),
        DatabaseTransaction.sync_transaction(session, read_only=True),
    ):
        pytest.fail("the block must not run")
    engine.dispose()


def test_options_that_come_too_late_are_refused(sync_database):
    with sync_database.session_factory() as session:
        session.execute(text("SELECT 1"))
        with (
            pytest.raises(TransactionStateError, match="isolation_level"),
            DatabaseTransaction.sync_transaction(session, isolation_level="SERIALIZABLE"),
        ):
            pytest.fail("the block must not run")


def test_an_autocommit_engine_is_refused_before_anything_is_sent(postgres, table):
    with Database(postgres("psycopg"), isolation_level="AUTOCOMMIT") as database:
        manager = TransactionManager(database, policy=QUICK)
        with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
            manager.execute_with_retry(lambda session: session.execute(table.create))
        with database.session_factory() as session:
            assert session.scalar(text("SELECT to_regclass(:name)"), {"name": table.name}) is None


async def test_the_wrong_colour_is_refused(postgres):
    with Database(postgres("psycopg")) as database, database.session_factory() as session:
        with pytest.raises(TypeError, match="sync_transaction"):
            async with DatabaseTransaction.async_transaction(session):
                pass
    async with AsyncDatabase(postgres("asyncpg")) as database, database.session_factory() as session:
        with (
            pytest.raises(TypeError, match="async_transaction"),
            DatabaseTransaction.sync_transaction(session),
        ):
            pass
        with pytest.raises(TypeError, match="asyncio sessions"):
            TransactionManager(database).execute_with_retry(lambda _: None)

        async def work(_session):
            return 1

        with pytest.raises(TypeError, match="async twin"):
            TransactionManager(Database(postgres("psycopg"))).execute_with_retry(work)


# Retries


async def test_a_unit_is_tried_whole_on_a_fresh_session(database, table):
    sessions = []

    async def work(session):
        sessions.append(session)
        await session.execute(table.insert(1))
        if len(sessions) < 3:
            raise TransientError
        return "done"

    assert await TransactionManager(database, policy=QUICK).async_execute_with_retry(work) == "done"
    assert len({id(session) for session in sessions}) == 3
    assert await numbers(database, table) == [1]


async def test_a_given_session_is_reset_between_attempts(database, table):
    sessions = []

    async def work(session):
        sessions.append(session)
        assert not session.new
        await session.execute(table.insert(1))
        if len(sessions) < 3:
            raise TransientError

    async with database.session_factory() as session:
        await TransactionManager(database, policy=QUICK).async_execute_with_retry(work, session)
        assert sessions == [session] * 3
    assert await numbers(database, table) == [1]


def test_a_blocking_unit_is_tried_whole(sync_database, table):
    attempts = []

    def work(session):
        attempts.append(session)
        session.execute(table.insert(1))
        if len(attempts) < 3:
            raise TransientError
        return "done"

    manager = TransactionManager(sync_database, policy=QUICK)
    assert manager.execute_with_retry(work) == "done"
    assert len(attempts) == 3
    assert sync_numbers(sync_database, table) == [1]


@pytest.mark.parametrize("of", ["session factory", "engine", "database"])
def test_sessions_come_from_any_source(sync_database, of):
    source = {
        "session factory": sync_database.session_factory,
        "engine": sync_database.engine,
        "database": sync_database,
    }[of]
    manager = TransactionManager(source, policy=QUICK)
    assert manager.execute_with_retry(lambda session: session.scalar(text("SELECT 1"))) == 1


def test_without_a_source_the_environment_names_the_database(tmp_path, monkeypatch):
    from dotmac.database.transactions import _sources  # noqa: PLC0415

    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/named.db")
    _sources._made_once.cache_clear()
    manager = dotmac.database.TransactionManager(max_retries=3, retry_delay=1.0, backoff_multiplier=2.0)
    try:
        assert manager.execute_with_retry(lambda session: session.scalar(text("SELECT 1"))) == 1
    finally:
        _sources._made_once().dispose()
        _sources._made_once.cache_clear()


async def test_what_fails_after_commit_is_never_tried_again(database, table):
    attempts = []

    def broken(_session):
        raise TransientError

    async def work(session):
        attempts.append(1)
        event.listen(session.sync_session, "after_commit", broken)
        await session.execute(table.insert(1))

    with pytest.raises(TransientError) as raised:
        await TransactionManager(database, policy=QUICK).async_execute_with_retry(work)
    assert attempts == [1]
    assert "it was committed" in raised.value.__notes__[0]
    assert await numbers(database, table) == [1]


async def test_a_write_is_not_tried_again_where_only_reading_was_asked_for(database, table):
    attempts = []

    async def work(session):
        attempts.append(1)
        await session.execute(table.insert(1))

    manager = TransactionManager(database, policy=QUICK, read_only=True)
    with pytest.raises(DBAPIError):
        await manager.async_execute_with_retry(work)
    assert attempts == [1]


async def test_other_errors_are_raised_at_once_as_they_are(database):
    attempts = []

    async def work(_session):
        attempts.append(1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as raised:
        await TransactionManager(database, policy=QUICK).async_execute_with_retry(work)
    assert attempts == [1]
    assert not hasattr(raised.value, "__notes__")


async def test_the_last_error_says_how_often_it_was_tried(database):
    async def work(_session):
        raise TransientError

    with pytest.raises(TransientError) as raised:
        await TransactionManager(database, policy=QUICK).async_execute_with_retry(work)
    assert raised.value.__notes__ == ["Gave up after 4 attempts: no more are allowed for this error."]


async def test_no_retry_begins_after_the_deadline(database):
    attempts = []

    async def work(_session):
        attempts.append(1)
        raise TransientError

    policy = RetryPolicy(max_attempts=10, base_delay=60, deadline_seconds=1, jitter_ratio=0)
    with pytest.raises(TransientError) as raised:
        await TransactionManager(database, policy=policy).async_execute_with_retry(work)
    assert attempts == [1]
    assert "deadline" in raised.value.__notes__[0]


async def test_an_empty_budget_ends_retries_of_lost_connections_but_not_of_conflicts(database):
    policy = RetryPolicy(max_attempts=4, base_delay=0, budget=RetryBudget(0, 0))
    manager = TransactionManager(database, policy=policy)
    errors = []

    def failing(sqlstate):
        async def work(_session):
            errors.append(sqlstate)
            error = TransientError()
            error.sqlstate = sqlstate
            raise error

        return work

    for state in ("08006", "40001"):
        with pytest.raises(TransientError):
            await manager.async_execute_with_retry(failing(state))
    assert errors == ["08006"] + ["40001"] * 4


async def test_a_session_in_a_transaction_is_refused_before_anything_is_sent(database, table):
    called = []
    manager = TransactionManager(database, policy=QUICK)
    async with database.session_factory() as session:
        await session.execute(table.all())
        with pytest.raises(TransactionStateError, match="in a transaction already"):
            await manager.async_execute_with_retry(called.append, session)
    assert called == []


async def test_a_unit_inside_a_unit_is_refused(database):
    manager = TransactionManager(database, policy=QUICK)

    async def inner(_session):
        pytest.fail("must not run")

    async def outer(_session):
        await manager.async_execute_with_retry(inner)

    with pytest.raises(TransactionStateError, match="inside another"):
        await manager.async_execute_with_retry(outer)
    async with asyncio.TaskGroup() as tasks:  # other tasks are no insiders
        for _ in range(2):
            tasks.create_task(
                manager.async_execute_with_retry(lambda session: session.execute(text("SELECT 1")))
            )


async def test_a_breaker_refuses_before_a_connection_is_asked_for(postgres):
    breaker = CircuitBreaker(failure_threshold=1, recovery_timeout=60)
    gone = make_url(postgres("asyncpg")).set(port=1, host="127.0.0.1").render_as_string(hide_password=False)
    async with AsyncDatabase(gone) as database:
        manager = TransactionManager(database, policy=RetryPolicy(max_attempts=1), breaker=breaker)

        async def work(session):
            await session.execute(text("SELECT 1"))

        with pytest.raises(ConnectionRefusedError):
            await manager.async_execute_with_retry(work)
        with pytest.raises(CircuitOpenError):
            await manager.async_execute_with_retry(work)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_connections_that_die_before_they_are_used_are_an_unreachable_server(postgres, driver):
    async with AsyncDatabase(postgres(driver)) as database:

        def dead(*_):
            raise DisconnectionError

        event.listen(database.engine.sync_engine, "checkout", dead)
        with pytest.raises(InvalidRequestError) as raised:
            async with database.engine.connect():
                pytest.fail("no connection lives")
    verdict = classify(raised.value)
    assert (verdict.kind, verdict.retryable, verdict.connectivity) == (ErrorKind.UNREACHABLE, True, True)


# Decorators


def test_a_decorated_function_retries_by_its_session_directly_and_through_a_manager(sync_database, table):
    attempts = []

    @with_retry(RetryPolicy(max_attempts=5, base_delay=0))
    def operation(session):
        attempts.append(1)
        if len(attempts) % 3:
            raise TransientError
        session.execute(table.insert(len(attempts)))
        return session.execute(table.all())

    with sync_database.session_factory() as session:
        assert operation(session).scalars().all() == [3]
        result = TransactionManager(max_retries=0).execute_with_retry(operation, session)
        assert result.scalars().all() == [3, 6]
    assert sync_numbers(sync_database, table) == [3, 6]


async def test_a_decorated_coroutine_function_gets_a_fresh_session_from_its_source(database, table):
    @with_retry(QUICK, source=database)
    async def add(session, number, *, twice=False):
        await session.execute(table.insert(number))
        return number * (1 + twice)

    assert await add(7, twice=True) == 14
    assert await numbers(database, table) == [7]
    async with database.session_factory() as session:
        assert await add(session, 8) == 8
        async with DatabaseTransaction.async_transaction(session) as tx:
            with pytest.raises(TransactionStateError, match="in a transaction already"):
                await add(tx, 9)


def test_work_that_is_marked_neither_by_a_session_nor_as_idempotent_is_refused():
    called = []

    @with_retry
    def unmarked():
        called.append(1)

    with pytest.raises(TypeError, match="idempotent=True"):
        unmarked()
    assert called == []


@pytest.mark.parametrize("arguments", [("3",), (3,), (object(),)])
def test_a_decorator_refuses_what_is_no_policy(arguments):
    with pytest.raises(TypeError, match="RetryPolicy"):
        with_retry(*arguments)


def test_a_generator_cannot_be_retried():
    with pytest.raises(TypeError, match="generator"):

        @with_retry
        def rows(session):
            yield session


class LostError(TransientError):
    """A lost connection."""

    sqlstate = "08006"


@pytest.mark.parametrize(("idempotent", "tries"), [(False, 1), (True, 4)])
async def test_a_lost_connection_is_retried_for_idempotent_functions_only(idempotent, tries):
    attempts = []

    @database_error_handler(retries=3, backoff=2.0, delay_seconds=0, idempotent=idempotent)
    async def work():
        attempts.append(1)
        raise LostError

    with pytest.raises(LostError) as raised:
        await work()
    assert len(attempts) == tries
    assert ("idempotent=True" in raised.value.__notes__[0]) is not idempotent


async def test_a_handled_function_is_not_tried_again_once_it_committed(database, table):
    attempts = []

    @database_error_handler(delay_seconds=0)
    async def work(*, commit_first):
        attempts.append(1)
        if commit_first:
            async with database.create_session() as session:
                await session.execute(table.insert(len(attempts)))
        raise TransientError

    with pytest.raises(TransientError):
        await work(commit_first=True)
    assert len(attempts) == 1
    with pytest.raises(TransientError):
        await work(commit_first=False)
    assert len(attempts) == 5


def test_a_handled_blocking_function_is_retried():
    attempts = []

    @database_error_handler(retries=2, delay_seconds=0)
    def work():
        attempts.append(1)
        if len(attempts) < 3:
            raise TransientError
        return "done"

    assert work() == "done"
    assert len(attempts) == 3


def test_a_real_deadlock_is_retried_until_both_have_committed(dotmac_database, table):
    import threading  # noqa: PLC0415

    with Database(dotmac_database.url("psycopg")) as database:
        counter = f"{table.name}_counter"
        with database.create_session() as session:
            session.execute(text(f"CREATE TABLE {counter} (id int PRIMARY KEY, n int)"))
            session.execute(text(f"INSERT INTO {counter} VALUES (1, 0), (2, 0)"))  # noqa: S608
        both_hold_one = threading.Barrier(2)
        manager = TransactionManager(database, policy=QUICK)
        tries = []

        def raise_both(first, second):
            def work(session):
                tries.append(1)
                session.execute(text(f"UPDATE {counter} SET n = n + 1 WHERE id = {first}"))  # noqa: S608
                if len(tries) <= 2:
                    both_hold_one.wait(10)
                session.execute(text(f"UPDATE {counter} SET n = n + 1 WHERE id = {second}"))  # noqa: S608

            manager.execute_with_retry(work)

        threads = [threading.Thread(target=raise_both, args=order) for order in ((1, 2), (2, 1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with database.create_session() as session:
            assert list(session.scalars(text(f"SELECT n FROM {counter}"))) == [2, 2]  # noqa: S608
    assert len(tries) >= 3


def test_sqlite_writers_that_read_first_all_get_through(tmp_path):
    import threading  # noqa: PLC0415

    with Database(f"sqlite:///{tmp_path}/c.db") as database:
        with database.create_session() as session:
            session.execute(text("CREATE TABLE c (n int)"))
            session.execute(text("INSERT INTO c VALUES (0)"))
        manager = TransactionManager(database, policy=RetryPolicy(max_attempts=100, base_delay=0.001))

        def add_one(session):
            n = session.scalar(text("SELECT n FROM c"))
            session.execute(text("UPDATE c SET n = :n"), {"n": n + 1})

        def add_ten():
            for _ in range(10):
                manager.execute_with_retry(add_one)

        threads = [threading.Thread(target=add_ten) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with database.create_session() as session:
            assert session.scalar(text("SELECT n FROM c")) == 40


def test_a_plain_engine_and_its_sessions_work_too(tmp_path):
    from sqlalchemy.orm import sessionmaker  # noqa: PLC0415

    engine = create_engine(f"sqlite:///{tmp_path}/p.db")
    manager = TransactionManager(sessionmaker(engine))
    assert manager.execute_with_retry(lambda session: session.scalar(text("SELECT 1"))) == 1
    engine.dispose()
