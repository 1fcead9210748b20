"""Faults that servers and networks produce, judged by a ledger: ok is present once, failed absent, unknown 0 or 1 time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import uuid
from collections import Counter

import pytest
from sqlalchemy import event, text

from dotmac.database.embedded import EmbeddedPostgres
from dotmac.database.engine import AsyncDatabase, Database
from dotmac.database.errors import CommitFailedError, CommitOutcomeUnknownError
from dotmac.database.settings import DatabaseSettings
from dotmac.database.transactions import (
    CircuitBreaker,
    DatabaseTransaction,
    RetryBudget,
    RetryPolicy,
    TransactionManager,
    TransactionOutcome,
    classify,
    transaction_outcome_async,
)

DRIVERS = ["asyncpg", "psycopg"]
QUICK = RetryPolicy(max_attempts=5, base_delay=0.01)
PATIENT = RetryPolicy(max_attempts=100, base_delay=0.05, max_delay=0.5, budget=RetryBudget(10_000))


class Ledger:
    """What was asked for and how it ended, against what the table holds afterwards."""

    def __init__(self, table):
        self.table = table
        self._numbers = itertools.count(1)
        self.endings = {}

    def write(self, number):
        async def insert(session):
            await session.execute(
                text(f"INSERT INTO {self.table} (id) VALUES (:id)"),  # noqa: S608
                {"id": number},
            )

        return insert

    async def attempt(self, manager):
        """One operation through ``manager``; notes how it ended."""
        number = next(self._numbers)
        try:
            await manager.async_execute_with_retry(self.write(number))
        except CommitOutcomeUnknownError:
            self.endings[number] = "unknown"
        except Exception as error:  # noqa: BLE001 - failed, for whatever reason
            self.endings[number] = f"failed: {type(error).__name__} {classify(error).kind}"
        else:
            self.endings[number] = "ok"
        return self.endings[number]

    async def settle(self, url):
        """Judge every operation; returns how many ended which way."""
        async with AsyncDatabase(url) as database, database.create_session() as session:
            rows = Counter(await session.scalars(text(f"SELECT id FROM {self.table}")))  # noqa: S608
        for number, ending in self.endings.items():
            allowed = {"ok": {1}, "unknown": {0, 1}}.get(ending, {0})
            assert rows[number] in allowed, (number, ending, rows[number])
        assert set(rows) <= set(self.endings)
        return Counter(ending.partition(":")[0] for ending in self.endings.values())


async def new_ledger(url):
    table = f"ledger_{uuid.uuid4().hex[:8]}"
    async with AsyncDatabase(url) as database, database.create_session() as session:
        # No unique constraint: a row written twice must show.
        await session.execute(text(f"CREATE TABLE {table} (id int)"))
    return Ledger(table)


@pytest.fixture
async def ledger(dotmac_database):
    return await new_ledger(dotmac_database.url())


@pytest.fixture(params=DRIVERS)
def driver(request):
    return request.param


def named(url, **settings):
    """A database whose backends can be told from others."""
    name = f"fault-{uuid.uuid4().hex[:12]}"
    return name, AsyncDatabase(DatabaseSettings(url=url, application_name=name, **settings))


def terminate(server, name):
    server.execute(
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = '{name}'"  # noqa: S608
    )


async def test_terminated_idle_backends_are_seen_by_no_caller(
    dotmac_postgres, dotmac_database, driver, ledger
):
    name, database = named(dotmac_database.url(driver))
    async with database:
        manager = TransactionManager(database, policy=RetryPolicy(max_attempts=1))
        for _ in range(3):
            await asyncio.gather(*(ledger.attempt(manager) for _ in range(5)))
            terminate(dotmac_postgres, name)
        assert await ledger.attempt(manager) == "ok"
    assert await ledger.settle(dotmac_database.url()) == {"ok": 16}


async def test_a_backend_terminated_in_a_transaction_is_retried_once_and_applied_once(
    dotmac_postgres, dotmac_database, driver, ledger
):
    name, database = named(dotmac_database.url(driver))
    calls = []
    async with database:

        async def work(session):
            await ledger.write(1)(session)
            calls.append(session)
            if len(calls) == 1:
                terminate(dotmac_postgres, name)
                await session.execute(text("SELECT 1"))

        await TransactionManager(database, policy=QUICK).async_execute_with_retry(work)
    ledger.endings[1] = "ok"
    assert len(calls) == 2
    assert calls[0] is not calls[1]
    assert await ledger.settle(dotmac_database.url()) == {"ok": 1}


async def test_a_backend_terminated_before_commit_is_never_applied_twice(
    dotmac_postgres, dotmac_database, driver, ledger
):
    name, database = named(dotmac_database.url(driver))
    async with database:
        manager = TransactionManager(database, policy=QUICK)
        pending = [True]

        async def work(session):
            await ledger.write(1)(session)
            if pending.pop() if pending else False:
                terminate(dotmac_postgres, name)

        try:
            await manager.async_execute_with_retry(work)
            ledger.endings[1] = "ok"
        except CommitOutcomeUnknownError:
            ledger.endings[1] = "unknown"
    await ledger.settle(dotmac_database.url())


@pytest.fixture
def own_server(tmp_path):
    # With a directory of its own it keeps port and passwords when it is started again.
    with EmbeddedPostgres(directory=tmp_path / "server", durable=False) as server:
        yield server


async def test_a_killed_server_loses_no_acknowledged_commit(own_server, driver):
    ledger = await new_ledger(own_server.url())
    _name, database = named(own_server.url(driver=driver), pool_size=8, max_overflow=0)
    async with database:
        manager = TransactionManager(database, policy=PATIENT)
        stop = asyncio.Event()

        async def worker():
            while not stop.is_set():
                await ledger.attempt(manager)

        workers = [asyncio.create_task(worker()) for _ in range(8)]
        await until(lambda: len(ledger.endings) > 50)
        own_server.kill()
        await asyncio.to_thread(own_server.start)
        before = len(ledger.endings)
        await until(lambda: len(ledger.endings) > before + 50)
        stop.set()
        await asyncio.gather(*workers)
    endings = await ledger.settle(own_server.url())
    assert endings["ok"] >= 92  # all but the one COMMIT that each worker may have had under way
    assert endings["failed"] == 0


async def until(condition, seconds=30):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - counted by many tasks
            await asyncio.sleep(0.01)


async def test_an_outage_is_ridden_out_with_few_connects_behind_a_breaker(own_server, driver):
    ledger = await new_ledger(own_server.url())
    _name, database = named(own_server.url(driver=driver), pool_size=20, max_overflow=0)
    async with database:
        engine = database.engine.sync_engine
        connects = []
        event.listen(engine, "do_connect", lambda *_: connects.append(1) and None)
        breaker = CircuitBreaker(failure_threshold=5, recovery_timeout=0.5)
        policy = RetryPolicy(max_attempts=100, base_delay=0.1, max_delay=1.0)
        manager = TransactionManager(database, policy=policy, breaker=breaker)
        await asyncio.gather(*(ledger.attempt(manager) for _ in range(64)))
        own_server.kill()
        connects.clear()
        during_the_outage = [asyncio.create_task(ledger.attempt(manager)) for _ in range(64)]
        await until(lambda: breaker.state != "closed")
        await asyncio.sleep(5)  # the outage itself: how long it lasts is the fault
        await asyncio.to_thread(own_server.start)
        await asyncio.gather(*during_the_outage)
        assert len(connects) <= 100
        assert breaker.state == "closed"
    assert await ledger.settle(own_server.url()) == {"ok": 128}


@pytest.fixture
def through_proxy(dotmac_fault_proxy, dotmac_database, driver):
    return AsyncDatabase(dotmac_fault_proxy.url(dotmac_database.url(driver)))


async def test_a_swallowed_acknowledgement_is_an_unknown_outcome_and_applied_once(
    dotmac_fault_proxy, dotmac_database, through_proxy, ledger
):
    async with through_proxy:
        manager = TransactionManager(through_proxy, policy=QUICK)
        dotmac_fault_proxy.swallow_commit_acknowledgement()
        assert await ledger.attempt(manager) == "unknown"
        assert await ledger.attempt(manager) == "ok"
    assert await ledger.settle(dotmac_database.url()) == {"ok": 1, "unknown": 1}


async def test_the_server_answers_committed_for_a_swallowed_acknowledgement(
    dotmac_fault_proxy, dotmac_database, through_proxy, ledger
):
    async with through_proxy:
        manager = TransactionManager(through_proxy, policy=QUICK, track_outcome=True)
        dotmac_fault_proxy.swallow_commit_acknowledgement(times=3)
        assert [await ledger.attempt(manager) for _ in range(4)] == ["ok"] * 4
    assert await ledger.settle(dotmac_database.url()) == {"ok": 4}


async def test_an_answer_that_cannot_be_asked_for_at_first_is_asked_for_again(
    dotmac_fault_proxy, dotmac_database, through_proxy, ledger
):
    """Connections that die while they are opened raise the driver's own classes, which say nothing about the COMMIT."""
    budgets = iter([1, 5, 20, 60, 300])

    def work(number):
        async def write_and_cut_what_comes_next(session):
            await ledger.write(number)(session)
            dotmac_fault_proxy.swallow_commit_acknowledgement()
            dotmac_fault_proxy.cut_after(lambda: next(budgets, None))

        return write_and_cut_what_comes_next

    async with through_proxy:
        manager = TransactionManager(through_proxy, policy=QUICK, track_outcome=True)
        await manager.async_execute_with_retry(work(1))
    assert next(budgets, None) is None
    ledger.endings[1] = "ok"
    assert await ledger.settle(dotmac_database.url()) == {"ok": 1}


async def test_a_commit_that_never_arrived_is_an_unknown_outcome(
    dotmac_fault_proxy, dotmac_database, through_proxy, ledger
):
    async with through_proxy:
        manager = TransactionManager(through_proxy, policy=QUICK)
        dotmac_fault_proxy.cut_before_commit()
        assert await ledger.attempt(manager) == "unknown"
    await ledger.settle(dotmac_database.url())


async def test_the_server_answers_aborted_for_a_commit_that_never_arrived_and_it_is_retried(
    dotmac_fault_proxy, dotmac_database, through_proxy, ledger
):
    async with through_proxy:
        manager = TransactionManager(through_proxy, policy=QUICK, track_outcome=True)
        dotmac_fault_proxy.cut_before_commit(times=2)
        assert await ledger.attempt(manager) == "ok"
        dotmac_fault_proxy.cut_before_commit()
        once = TransactionManager(through_proxy, policy=RetryPolicy(max_attempts=1), track_outcome=True)
        with pytest.raises(CommitFailedError, match="rolled back"):
            await once.async_execute_with_retry(ledger.write(1000))
    ledger.endings[1000] = "failed"
    assert await ledger.settle(dotmac_database.url()) == {"ok": 1, "failed": 1}


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("swallow_commit_acknowledgement", TransactionOutcome.COMMITTED),
        ("cut_before_commit", TransactionOutcome.ABORTED),
    ],
)
async def test_an_unknown_outcome_can_be_looked_up_later(
    dotmac_fault_proxy, dotmac_database, through_proxy, ledger, fault, outcome
):
    async def write_and_lose_the_answer():
        async with (
            through_proxy.session_factory() as session,
            DatabaseTransaction.async_transaction(session, track_outcome=True, resolve_seconds=0),
        ):
            await ledger.write(1)(session)
            getattr(dotmac_fault_proxy, fault)()

    async with through_proxy:
        with pytest.raises(CommitOutcomeUnknownError) as raised:
            await write_and_lose_the_answer()
        assert int(raised.value.transaction_id) > 0
        async with asyncio.timeout(10):
            while True:
                found = await transaction_outcome_async(through_proxy.engine, raised.value.transaction)
                if found is not TransactionOutcome.IN_PROGRESS:
                    break
    assert found is outcome


def test_a_blocking_commit_is_told_apart_in_the_same_way(dotmac_fault_proxy, dotmac_database):
    with Database(dotmac_fault_proxy.url(dotmac_database.url("psycopg"))) as database:
        table = f"blocking_{uuid.uuid4().hex[:8]}"
        manager = TransactionManager(database, policy=QUICK)
        manager.execute_with_retry(lambda session: session.execute(text(f"CREATE TABLE {table} (id int)")))

        def insert(session):
            session.execute(text(f"INSERT INTO {table} VALUES (1)"))  # noqa: S608

        dotmac_fault_proxy.swallow_commit_acknowledgement()
        with pytest.raises(CommitOutcomeUnknownError):
            manager.execute_with_retry(insert)
        sure = TransactionManager(database, policy=QUICK, track_outcome=True)
        dotmac_fault_proxy.swallow_commit_acknowledgement()
        sure.execute_with_retry(insert)
        dotmac_fault_proxy.cut_before_commit()
        sure.execute_with_retry(insert)
        count = manager.execute_with_retry(
            lambda session: session.scalar(text(f"SELECT count(*) FROM {table}"))  # noqa: S608
        )
    assert count == 3


async def test_altering_a_table_under_load_causes_no_error(dotmac_database, driver, ledger):
    url = dotmac_database.url(driver)
    async with AsyncDatabase(url, pool_size=4) as database, AsyncDatabase(url) as admin:
        manager = TransactionManager(database, policy=QUICK)
        errors, reads = [], []
        stop = asyncio.Event()

        async def read(session):
            return (await session.execute(text(f"SELECT * FROM {ledger.table}"))).all()  # noqa: S608

        async def reader():
            while not stop.is_set():
                try:
                    reads.append(await manager.async_execute_with_retry(read))
                except Exception as error:  # noqa: BLE001 - collected
                    errors.append(error)

        readers = [asyncio.create_task(reader()) for _ in range(4)]
        for number in range(10):
            before = len(reads)
            await until(lambda: len(reads) + len(errors) > before + 40)  # noqa: B023 - awaited here
            async with admin.create_session() as session:
                await session.execute(text(f"ALTER TABLE {ledger.table} ADD COLUMN c{number} int"))
        stop.set()
        await asyncio.gather(*readers)
    assert errors == []


async def test_a_demoted_node_costs_one_read_only_error_and_heals(own_server, driver):
    ledger = await new_ledger(own_server.url())
    _name, database = named(own_server.url(driver=driver), pool_size=1, max_overflow=0)
    async with database:
        manager = TransactionManager(database, policy=QUICK)
        assert await ledger.attempt(manager) == "ok"
        async with database.create_session() as session:
            # The pooled connection only reads from now on; new ones write.
            await session.execute(text("SET default_transaction_read_only = on"))
        refused = []
        event.listen(
            database.engine.sync_engine,
            "handle_error",
            lambda context: refused.append(context.original_exception),
        )
        assert await ledger.attempt(manager) == "ok"
        assert await ledger.attempt(manager) == "ok"
    assert len(refused) == 1
    assert await ledger.settle(own_server.url()) == {"ok": 3}


async def test_a_frozen_server_fails_at_the_callers_deadline(own_server, driver):
    ledger = await new_ledger(own_server.url())
    async with AsyncDatabase(own_server.url(driver=driver)) as database:
        manager = TransactionManager(database, policy=QUICK)
        await ledger.attempt(manager)
        children = await backends_of(own_server)
        for pid in children:
            os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await manager.async_execute_with_retry(ledger.write(2))
        finally:
            for pid in children:
                os.kill(pid, signal.SIGCONT)
        ledger.endings[2] = "unknown"
        with contextlib.suppress(Exception):
            await ledger.attempt(manager)
    await ledger.settle(own_server.url())


async def backends_of(server):
    async with AsyncDatabase(server.url()) as database, database.create_session() as session:
        found = await session.scalars(
            text("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'")
        )
        return [pid for pid in found if pid != await session.scalar(text("SELECT pg_backend_pid()"))]
