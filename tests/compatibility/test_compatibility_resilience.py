"""Code written for the toolkit's transactions, retries, breaker and health checks runs here, by its own import name."""

from __future__ import annotations

import pytest
from sqlalchemy import Column, MetaData, String, Table, func, insert, select
from sqlalchemy.exc import OperationalError

from dotmac.database import create_async_engine, create_engine, create_session_factory
from dotmac.database.transactions import database_error_handler
from dotmac_database import (
    CircuitBreaker,
    DatabaseHealthChecker,
    DatabaseTransaction,
    HealthStatus,
    RetryPolicy,
    RetryStrategy,
    TransactionManager,
    with_retry,
)

notes = Table("toolkit_notes", MetaData(), Column("body", String(50), primary_key=True))


class DeadlockError(Exception):
    """A deadlock, as a driver tells it."""

    sqlstate = "40P01"


def deadlock() -> OperationalError:
    return OperationalError("UPDATE …", None, DeadlockError())


@pytest.fixture
def sessions(dotmac_database):
    engine = create_engine(
        dotmac_database.url(driver="psycopg").replace("postgresql://", "postgresql+psycopg://")
    )
    notes.metadata.create_all(engine)
    yield create_session_factory(engine)
    notes.metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture
async def async_sessions(dotmac_database):
    engine = create_async_engine(dotmac_database.url())
    async with engine.begin() as connection:
        await connection.run_sync(notes.metadata.create_all)
    yield create_session_factory(engine)
    async with engine.begin() as connection:
        await connection.run_sync(notes.metadata.drop_all)
    await engine.dispose()


def count(sessions) -> int:
    with sessions() as session:
        return session.scalar(select(func.count()).select_from(notes))


def test_a_transaction_block_commits_or_rolls_back(sessions):
    with sessions() as session, DatabaseTransaction.sync_transaction(session) as tx:
        assert tx is not None
        session.execute(insert(notes).values(body="kept"))
    with pytest.raises(RuntimeError):
        fail_after_writing(sessions)
    assert count(sessions) == 1


def fail_after_writing(sessions) -> None:
    with sessions() as session, DatabaseTransaction.sync_transaction(session):
        session.execute(insert(notes).values(body="lost"))
        raise RuntimeError


def test_a_manager_tries_again(sessions):
    manager = TransactionManager(max_retries=3, retry_delay=0.001, backoff_multiplier=2.0)
    attempts = []

    def work(session):
        attempts.append(session)
        session.execute(insert(notes).values(body="once"))
        if len(attempts) < 3:
            raise deadlock()
        return "done"

    with sessions() as session:
        assert manager.execute_with_retry(work, session) == "done"
    assert len(attempts) == 3
    assert count(sessions) == 1


def test_a_manager_takes_a_lambda(sessions):
    manager = TransactionManager(sessions, max_retries=3, retry_delay=0.001, backoff_multiplier=2.0)
    manager.execute_with_retry(lambda session: session.execute(insert(notes).values(body="by lambda")))
    assert count(sessions) == 1


async def test_a_manager_opens_async_blocks(async_sessions):
    manager = TransactionManager(max_retries=3, retry_delay=0.001)
    async with async_sessions() as session, manager.async_transaction(session) as tx:
        assert tx is not None
        await session.execute(insert(notes).values(body="async"))
    async with async_sessions() as session:
        assert await session.scalar(select(func.count()).select_from(notes)) == 1


def test_a_policy_decorates_a_function_of_a_session(sessions):
    policy = RetryPolicy(
        max_attempts=5, base_delay=0.001, strategy=RetryStrategy.EXPONENTIAL, jitter_ratio=0.1
    )
    attempts = []

    @with_retry(policy)
    def unreliable(session):
        attempts.append(session)
        if len(attempts) < 5:
            raise deadlock()
        return session.execute(select(1)).scalar_one()

    with sessions() as session:
        assert unreliable(session) == 1
    assert len(attempts) == 5


async def test_a_handler_retries_a_coroutine_function():
    attempts = []

    @database_error_handler(retries=3, backoff=2.0)
    async def fetch():
        attempts.append(None)
        if len(attempts) < 3:
            raise deadlock()
        return len(attempts)

    assert await fetch() == 3


def test_a_breaker_decorates_and_tells_its_state():
    circuit_breaker = CircuitBreaker(failure_threshold=5, recovery_timeout=60.0)

    @circuit_breaker
    def risky():
        return "fine"

    assert risky() == "fine"
    assert circuit_breaker.state == "closed"


def test_health_is_checked_of_a_session(sessions):
    checker = DatabaseHealthChecker(connection_timeout=5.0, query_timeout=10.0, slow_query_threshold=1.0)
    with sessions() as session:
        result = checker.check_health(session)
        assert result.status == HealthStatus.HEALTHY
        assert result.message
        assert result.duration_ms >= 0
        assert checker.check_connectivity(session).status == HealthStatus.HEALTHY
