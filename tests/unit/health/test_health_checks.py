"""Checks on SQLite: the faces, added checks and pools; no server."""

from __future__ import annotations

import asyncio
import threading

import pytest
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, StaticPool

from dotmac.database import AsyncDatabase, Database, DatabaseHealthChecker, HealthCheckResult, HealthStatus
from dotmac.database.engine import create_async_engine, create_engine

MEMORY, ASYNC_MEMORY = "sqlite:///:memory:", "sqlite+aiosqlite:///:memory:"
NAMES = ["connectivity", "query", "performance", "pool"]


@pytest.fixture
def checker():
    return DatabaseHealthChecker(connection_timeout=5.0, query_timeout=10.0, slow_query_threshold=1.0)


@pytest.fixture
def database():
    with Database(MEMORY) as opened:
        yield opened


def test_a_database_and_its_engine_are_healthy(checker, database):
    for target in (database, database.engine):
        result = checker.check_health(target)
        assert (result.status, result.message, result.name) == ("healthy", "All checks passed.", "database")
        assert [check.name for check in result.checks] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_aspect_has_its_own_check(checker, database, name):
    assert getattr(checker, f"check_{name}")(database).name == name


@pytest.mark.parametrize("name", [*NAMES, "health"])
async def test_asyncio_targets_are_awaited(checker, name):
    async with AsyncDatabase(ASYNC_MEMORY) as database, database.create_session() as session:
        for target in (database, database.engine, session):
            assert (await getattr(checker, f"check_{name}")(target)).status is HealthStatus.HEALTHY


@pytest.mark.parametrize("target", ["sqlite://", None, 1])
def test_something_else_is_refused(checker, target):
    with pytest.raises(TypeError, match="takes a Session"):
        checker.check_health(target)


def test_a_session_outside_a_transaction_stays_outside(checker, database):
    with database.session_factory() as session:
        assert checker.check_health(session).is_healthy
        assert not session.in_transaction()
        assert database.engine.pool.checkedout() == 0


def test_a_connection_that_all_share_is_not_rolled_back(checker):
    engine = sqlalchemy.create_engine("sqlite://", poolclass=StaticPool)
    with Session(engine) as session:
        session.execute(text("CREATE TABLE t (x int)"))
        session.execute(text("INSERT INTO t VALUES (1)"))
        assert checker.check_health(engine).is_healthy
        assert session.scalar(text("SELECT count(*) FROM t")) == 1
    engine.dispose()


@pytest.mark.parametrize("kind", [NullPool, None])
def test_plain_engines_are_checked_too(checker, kind):
    engine = sqlalchemy.create_engine("sqlite://", **({} if kind is None else {"poolclass": kind}))
    assert checker.check_health(engine).is_healthy
    assert checker.check_pool(engine).message == "This pool has no limit to reach."
    engine.dispose()


async def test_plain_asyncio_engines_are_checked_too(checker, tmp_path):
    engine = sqlalchemy_asyncio.create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/x.db")
    assert (await checker.check_health(engine)).is_healthy
    await engine.dispose()


def test_a_file_that_cannot_be_opened_is_unhealthy(checker, tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/missing/x.db")
    result = checker.check_health(engine)
    assert result.status is HealthStatus.UNHEALTHY
    assert str(tmp_path) not in str(result.to_dict())


@pytest.mark.parametrize(
    ("taken", "limits", "status"),
    [
        (8, {}, "healthy"),
        (9, {}, "degraded"),
        (5, {"pool_degraded_at": 0.5}, "degraded"),
        (10, {"pool_unhealthy_at": 1.0}, "unhealthy"),
    ],
)
def test_a_pool_is_judged_by_the_share_in_use(tmp_path, taken, limits, status):
    engine = create_engine(f"sqlite:///{tmp_path}/x.db", pool_size=6, max_overflow=4)
    held = [engine.connect() for _ in range(taken)]
    result = DatabaseHealthChecker(**limits).check_pool(engine)
    assert result.status == status
    assert result.details["saturation"] == taken / 10
    for connection in held:
        connection.close()
    engine.dispose()


def test_a_pool_without_a_limit_is_never_full(checker, tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/x.db", pool_size=1, max_overflow=-1)
    with engine.connect(), engine.connect():
        assert checker.check_pool(engine).is_healthy
    engine.dispose()


def test_a_query_slower_than_the_threshold_is_degraded(database):
    result = DatabaseHealthChecker(slow_query_threshold=1e-9).check_health(database)
    assert result.status is HealthStatus.DEGRADED
    assert "is slow" in result.message


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (None, "healthy"),
        (True, "healthy"),
        (False, "unhealthy"),
        (HealthStatus.DEGRADED, "degraded"),
        ((HealthStatus.UNHEALTHY, "The disk is full."), "unhealthy"),
        (HealthCheckResult(HealthStatus.DEGRADED, "Lagging."), "degraded"),
        ("fine", "unknown"),
    ],
)
def test_an_added_check_counts(checker, database, outcome, status):
    checker.add_check("disk", lambda _target: outcome)
    result = checker.check_health(database)
    assert (result.status, result.checks[-1].name, result.checks[-1].status) == (status, "disk", status)


def test_an_added_check_that_raises_is_unhealthy_and_not_quoted(checker, database):
    def boom(_target):
        raise RuntimeError("secret-of-mine")

    checker.add_check("boom", boom)
    result = checker.check_health(database)
    assert result.checks[-1].message == "It failed with RuntimeError."
    assert "secret" not in str(result.to_dict())


def test_an_added_check_that_hangs_is_left_behind_and_not_started_twice(database):
    release, calls = threading.Event(), []

    def hang(_target):
        calls.append(1)
        release.wait()

    checker = DatabaseHealthChecker(query_timeout=0.05)
    checker.add_check("hang", hang)
    first, second = checker.check_health(database), checker.check_health(database)
    release.set()
    assert "did not end within" in first.message
    assert second.message == "It is still running since an earlier check."
    assert calls == [1]


async def test_added_coroutines_run_on_the_loop_and_end_at_the_deadline():
    ended = asyncio.Event()

    async def hang(_target):
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def ask(target):
        async with target.connect() as connection:
            return await connection.scalar(text("SELECT 1")) == 1

    checker = DatabaseHealthChecker(query_timeout=0.2)
    checker.add_check("ask", ask)
    checker.add_check("hang", hang)
    checker.add_check("plain", lambda _target: HealthStatus.HEALTHY)
    engine = create_async_engine(ASYNC_MEMORY)
    result = await checker.check_health(engine)
    await engine.dispose()
    assert [check.status.value for check in result.checks[-3:]] == ["healthy", "unhealthy", "healthy"]
    assert ended.is_set()


def test_a_coroutine_cannot_run_for_a_blocking_target(checker, database):
    async def ask(_target):
        return True

    checker.add_check("ask", ask)
    assert checker.check_health(database).checks[-1].status is HealthStatus.UNKNOWN


@pytest.mark.parametrize("name", ["", " ", "pool", "taken"])
def test_names_are_used_once(checker, name):
    checker.add_check("taken", lambda _target: None)
    with pytest.raises(ValueError, match="cannot name a check"):
        checker.add_check(name, lambda _target: None)
