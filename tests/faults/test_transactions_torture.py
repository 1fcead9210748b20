# ruff: noqa: S311, S608 - chance needs no secrecy here, and every name in the SQL is a constant
"""Money moves between accounts while backends die, deadlocks happen and connections are cut at random bytes.

DOTMAC_TEST_TORTURE_SECONDS says for how long; the default is 10.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import uuid
from collections import Counter
from contextlib import suppress

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import SQLAlchemyError

from dotmac.database.engine import AsyncDatabase
from dotmac.database.errors import CommitOutcomeUnknownError
from dotmac.database.settings import DatabaseSettings
from dotmac.database.transactions import (
    ErrorKind,
    RetryBudget,
    RetryPolicy,
    TransactionManager,
    TransactionOutcome,
    classify,
    transaction_outcome_async,
)

SECONDS = float(os.environ.get("DOTMAC_TEST_TORTURE_SECONDS", "10"))
LONG_SECONDS = 60
WORKERS = 32
ACCOUNTS = 48
OPENING_BALANCE = 1000
_logger = logging.getLogger("dotmac.torture")


class Bank:
    """Accounts, and every transfer with how it ended."""

    def __init__(self):
        suffix = uuid.uuid4().hex[:8]
        self.accounts, self.transfers = f"accounts_{suffix}", f"transfers_{suffix}"
        self.acknowledged, self.failed, self.unknown = set(), {}, {}
        self.attempts = 0

    async def open(self, url):
        async with AsyncDatabase(url) as database, database.create_session() as session:
            await session.execute(text(f"CREATE TABLE {self.accounts} (id int PRIMARY KEY, balance int)"))
            # No unique constraint: a transfer that is written twice must show.
            await session.execute(text(f"CREATE TABLE {self.transfers} (id uuid)"))
            await session.execute(
                text(
                    f"INSERT INTO {self.accounts} SELECT g, {OPENING_BALANCE} FROM generate_series(1, {ACCOUNTS}) g"
                )
            )

    def transfer(self, number, source, target, amount):
        async def move(session):
            self.attempts += 1
            change = text(f"UPDATE {self.accounts} SET balance = balance + :amount WHERE id = :id")
            # In no order, so that two transfers can wait for each other.
            await session.execute(change, {"amount": -amount, "id": source})
            await session.execute(text(f"INSERT INTO {self.transfers} VALUES (:id)"), {"id": number})
            await session.execute(change, {"amount": amount, "id": target})

        return move

    async def work(self, manager, stop):
        while not stop.is_set():
            number = uuid.uuid4()
            source, target = random.sample(range(1, ACCOUNTS + 1), 2)
            try:
                await manager.async_execute_with_retry(
                    self.transfer(number, source, target, random.randint(1, 10))
                )
            except CommitOutcomeUnknownError as error:
                self.unknown[number] = error.transaction
            except Exception as error:  # noqa: BLE001 - the ledger does not mind why
                self.failed[number] = f"{type(error).__name__} {classify(error).kind} {error}"[:300]
            else:
                self.acknowledged.add(number)

    async def audit(self, url):
        """Compare the ledger with the tables; returns what the unknown ones turned out to be."""
        found = Counter()
        async with AsyncDatabase(url) as database:
            async with database.create_session() as session:
                total = await session.scalar(text(f"SELECT sum(balance) FROM {self.accounts}"))
                rows = Counter(await session.scalars(text(f"SELECT id FROM {self.transfers}")))
            assert total == ACCOUNTS * OPENING_BALANCE
            assert {rows[number] for number in self.acknowledged} == {1}
            assert not any(rows[number] for number in self.failed)
            for number, transaction in self.unknown.items():
                outcome = await transaction_outcome_async(database.engine, transaction)
                assert outcome in {TransactionOutcome.COMMITTED, TransactionOutcome.ABORTED}
                assert rows[number] == (outcome is TransactionOutcome.COMMITTED)
                found[outcome.value] += 1
        assert set(rows) <= self.acknowledged | set(self.unknown)
        return found


async def kill_backends(server, name, stop):
    killed = 0
    while not stop.is_set():
        await asyncio.sleep(random.uniform(0.02, 0.2))
        await asyncio.to_thread(
            server.execute,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE application_name = '{name}' ORDER BY random() LIMIT 1",
        )
        killed += 1
    return killed


async def lose_commits(proxy, stop):
    lost = 0
    while not stop.is_set():
        await asyncio.sleep(random.uniform(0.05, 0.3))
        random.choice([proxy.swallow_commit_acknowledgement, proxy.cut_before_commit])()
        lost += 1
    return lost


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_no_money_appears_or_vanishes(dotmac_postgres, dotmac_database, dotmac_fault_proxy, driver):
    bank, stop, name = Bank(), asyncio.Event(), f"torture-{uuid.uuid4().hex[:12]}"
    await bank.open(dotmac_database.url())
    # Looked for sooner than after a second, so that there are many.
    dotmac_postgres.execute(f"ALTER DATABASE {dotmac_database.name} SET deadlock_timeout = '50ms'")
    url = dotmac_fault_proxy.url(dotmac_database.url(driver))
    database = AsyncDatabase(
        DatabaseSettings(url=url, application_name=name), pool_size=WORKERS, max_overflow=0
    )
    errors = Counter()
    dotmac_fault_proxy.cut_after(lambda: int(random.expovariate(1 / 20_000)) + 1)
    async with database:
        event.listen(
            database.engine.sync_engine,
            "handle_error",
            lambda context: errors.update(
                [classify(context.sqlalchemy_exception or context.original_exception).kind]
            ),
        )
        policy = RetryPolicy(max_attempts=20, base_delay=0.01, max_delay=0.5, budget=RetryBudget(1_000_000))
        manager = TransactionManager(database, policy=policy, track_outcome=True)
        tormentors = [
            asyncio.create_task(kill_backends(dotmac_postgres, name, stop)),
            asyncio.create_task(lose_commits(dotmac_fault_proxy, stop)),
        ]
        workers = [asyncio.create_task(bank.work(manager, stop)) for _ in range(WORKERS)]
        with suppress(TimeoutError):
            async with asyncio.timeout(SECONDS):
                await asyncio.gather(*(asyncio.shield(worker) for worker in workers))
        stop.set()
        killed, lost = await asyncio.gather(*tormentors)
        await asyncio.gather(*workers)
        dotmac_fault_proxy.heal()
        with suppress(SQLAlchemyError, OSError):
            await database.check()
    resolved = await bank.audit(dotmac_database.url())
    _logger.info(
        "%s, %g s: %d acknowledged, %d failed %s, %d unknown %s; %d attempts, %d backends killed, %d commits lost, "
        "%d connections; errors %s",
        driver,
        SECONDS,
        len(bank.acknowledged),
        len(bank.failed),
        dict(Counter(bank.failed.values())),
        len(bank.unknown),
        dict(resolved),
        bank.attempts,
        killed,
        lost,
        dotmac_fault_proxy.accepted,
        {str(kind): count for kind, count in errors.items()},
    )
    assert bank.acknowledged
    assert not [ending for ending in bank.failed.values() if "application" in ending]
    faults = {ErrorKind.CONFLICT, ErrorKind.DISCONNECTED, ErrorKind.AMBIGUOUS_COMMIT}
    # On a slow machine a short run may meet one kind of fault and not the other; a long one meets all.
    assert faults <= set(errors) if SECONDS >= LONG_SECONDS else faults & set(errors)
