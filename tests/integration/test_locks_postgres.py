from __future__ import annotations

import asyncio
import contextlib
import math

import pytest
from sqlalchemy import text

from dotmac.database.context import RequestContext, use_context
from dotmac.database.coordination import PgAdvisoryLock, _pg_lock
from dotmac.database.engine import AsyncDatabase, create_async_engine, with_async_session
from dotmac.database.errors import ConfigurationError, LockLostError, LockNotHeldError, LockUnavailableError

HELD = text(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = "
    "(SELECT oid FROM pg_database WHERE datname = current_database())"
)
WAITING = text(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = "
    "(SELECT oid FROM pg_database WHERE datname = current_database())"
)


@pytest.fixture(params=["asyncpg", "psycopg"])
async def database(request, dotmac_database):
    async with AsyncDatabase(dotmac_database.url(request.param), pool_size=4, max_overflow=4) as database:
        yield database
        async with database.create_session() as session:
            assert await session.scalar(HELD) == 0


LEVELS = pytest.mark.parametrize("level", ["transaction", "session"])


@LEVELS
async def test_one_gets_it_and_the_other_is_told(database, level):
    async with PgAdvisoryLock(12345, engine=database, level=level) as first:
        assert first.acquired
        async with PgAdvisoryLock(12345, engine=database.engine) as second:
            assert not second.acquired
        with pytest.raises(LockNotHeldError, match="fenced=True"):
            _ = first.fencing_token
    async with PgAdvisoryLock(12345, engine=database, level=level) as third:
        assert third.acquired


@LEVELS
async def test_fencing_tokens_grow(database, level):
    tokens = []
    for _ in range(3):
        async with PgAdvisoryLock("fenced", engine=database, level=level, fenced=True) as lock:
            tokens.append(lock.fencing_token)
    assert tokens == sorted(set(tokens))


@LEVELS
async def test_a_held_lock_keeps_no_snapshot_and_no_transaction_number(database, level):
    async with PgAdvisoryLock("idle", engine=database, level=level, fenced=True) as lock:
        pid = _pg_lock._told_backend((await lock._own.get_raw_connection()).driver_connection)
        async with database.create_session() as session:
            row = (
                await session.execute(
                    text("SELECT backend_xmin, backend_xid FROM pg_stat_activity WHERE pid = :pid"),
                    {"pid": pid},
                )
            ).one()
        assert tuple(row) == (None, None)


@LEVELS
async def test_a_wait_ends_with_the_lock_or_without_it(database, level):
    async with PgAdvisoryLock("waited", engine=database):
        async with PgAdvisoryLock("waited", engine=database, level=level, wait=0.05) as second:
            assert not second.acquired
        third = asyncio.create_task(_take(database, "waited", level, math.inf))
        await _somebody_waits(database)
    assert await third


@LEVELS
async def test_cancelled_waiters_leave_no_orphan(database, level):
    for number in range(20):
        async with PgAdvisoryLock("cancelled", engine=database):
            waiter = asyncio.create_task(_take(database, "cancelled", level, 30))
            if number % 2:
                await _somebody_waits(database)
            else:
                for _ in range(number * 3):
                    await asyncio.sleep(0)
        waiter.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiter
        async with PgAdvisoryLock("cancelled", engine=database, wait=10) as after:
            assert after.acquired


async def _take(database, key, level, wait):
    async with PgAdvisoryLock(key, engine=database, level=level, wait=wait) as lock:
        return lock.acquired


async def _somebody_waits(database):
    async with database.engine.connect() as connection:
        while not await connection.scalar(WAITING):
            await connection.rollback()
            await asyncio.sleep(0.005)


async def test_a_lock_of_a_session_ends_with_its_transaction(database):
    async with database.session_factory() as session:
        async with PgAdvisoryLock("report", session=session) as lock:
            assert lock.acquired
        assert not await _take(database, "report", "transaction", 0)
        await session.commit()
        assert await _take(database, "report", "transaction", 0)


async def test_a_timeout_in_a_session_spares_its_transaction(database):
    async with (
        PgAdvisoryLock("busy", engine=database),
        with_async_session(database.session_factory) as session,
    ):
        await session.execute(text("SET LOCAL lock_timeout = '7s'"))
        async with PgAdvisoryLock("busy", session=session, wait=0.05) as lock:
            assert not lock.acquired
        assert await session.scalar(text("SELECT current_setting('lock_timeout')")) == "7s"


async def test_a_wait_in_a_session_keeps_its_lock_timeout(database):
    async with with_async_session(database.session_factory) as session:
        await session.execute(text("SET LOCAL lock_timeout = '7s'"))
        async with PgAdvisoryLock("soon", engine=database):
            waiting = asyncio.create_task(PgAdvisoryLock("soon", session=session, wait=30).__aenter__())
            await _somebody_waits(database)
        assert (await waiting).acquired
        assert await session.scalar(text("SELECT current_setting('lock_timeout')")) == "7s"


@LEVELS
async def test_the_end_of_its_connection_loses_the_lock(database, dotmac_postgres, level):
    with pytest.raises(LockLostError):  # noqa: PT012
        async with PgAdvisoryLock("killed", engine=database, level=level, heartbeat=0.05) as lock:
            await _kill(lock, dotmac_postgres)
            await lock.lost.wait()
    assert await _take(database, "killed", level, 0)


async def test_a_loss_is_noticed_at_the_end_at_the_latest(database, dotmac_postgres):
    with pytest.raises(LockLostError):
        async with PgAdvisoryLock("killed", engine=database, heartbeat=60) as lock:
            await _kill(lock, dotmac_postgres)


async def test_a_loss_cancels_the_block_if_wanted(database, dotmac_postgres):
    with pytest.raises(LockLostError):  # noqa: PT012
        async with PgAdvisoryLock("killed", engine=database, heartbeat=0.05, cancel_when_lost=True) as lock:
            await _kill(lock, dotmac_postgres)
            await asyncio.Event().wait()


async def _kill(lock, server):
    driver = (await lock._own.get_raw_connection()).driver_connection
    pid = _pg_lock._told_backend(driver)
    await asyncio.to_thread(server.execute, f"SELECT pg_terminate_backend({pid}, 5000)")


async def test_an_error_in_the_block_leaves_the_lock_free(database):
    with pytest.raises(ZeroDivisionError):
        async with PgAdvisoryLock("failing", engine=database, level="session"):
            _ = 1 / 0
    assert await _take(database, "failing", "transaction", 0)


async def test_tenants_do_not_meet_unless_the_name_is_shared(database):
    with use_context(RequestContext(tenant_id="acme")):
        async with PgAdvisoryLock("n", engine=database), PgAdvisoryLock("n", engine=database, shared=True):
            with use_context(RequestContext(tenant_id="other")):
                assert await _take(database, "n", "transaction", 0)
                async with PgAdvisoryLock("n", engine=database, shared=True) as shared:
                    assert not shared.acquired


async def test_an_unreachable_server_is_no_lock():
    engine = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/none")
    with pytest.raises(LockUnavailableError, match="nobody knows"):
        async with PgAdvisoryLock(1, engine=engine):
            pytest.fail("nothing was acquired")
    await engine.dispose()


async def test_a_session_lock_is_refused_behind_a_pooler(database, monkeypatch):
    # What a pooler does: it tells each client a process number of its own.
    told = _pg_lock._told_backend
    monkeypatch.setattr(_pg_lock, "_told_backend", lambda raw: told(raw) + 1)
    with pytest.raises(ConfigurationError, match="pooler"):
        async with PgAdvisoryLock(1, engine=database, level="session"):
            pytest.fail("nothing was acquired")
    async with (
        PgAdvisoryLock(1, engine=database, level="session", behind_session_pooler=True) as insisted,
        PgAdvisoryLock(2, engine=database) as transaction,
    ):
        assert insisted.acquired
        assert transaction.acquired


async def test_autocommit_holds_no_lock(database):
    async with database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
            async with PgAdvisoryLock(1, connection=connection):
                pytest.fail("nothing was acquired")


async def test_other_databases_have_no_advisory_locks():
    async with AsyncDatabase("sqlite+aiosqlite:///:memory:") as database:
        with pytest.raises(ConfigurationError, match="RedisLock"):
            async with PgAdvisoryLock(1, engine=database):
                pytest.fail("nothing was acquired")


@pytest.mark.parametrize("arguments", [{"level": "session"}, {"fenced": True}, {"engine": object()}])
async def test_what_a_callers_transaction_cannot_give_is_refused(database, arguments):
    async with database.session_factory() as session:
        with pytest.raises(TypeError):
            PgAdvisoryLock(1, session=session, **arguments)
