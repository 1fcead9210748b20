"""Servers that are killed, frozen or swallowed: every check ends at its deadline and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import PendingRollbackError

from dotmac.database import AsyncDatabase, Database, DatabaseHealthChecker, HealthStatus
from dotmac.database.embedded import EmbeddedPostgres

DRIVERS = ["asyncpg", "psycopg", "blocking"]
BRIEF = DatabaseHealthChecker(connection_timeout=0.4, query_timeout=0.4)
# The deadline is what is tested: a check that missed it would run into this, and no fast machine is needed.
FAR_BEYOND_SECONDS = 5
SELECT_1 = text("SELECT 1")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedPostgres(directory=tmp_path_factory.mktemp("health") / "server") as running:
        yield running


@contextmanager
def frozen(server):
    """Stop the server and its backends, as a hung machine would."""
    pids = [server.pid, *_children(server.pid)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _children(parent):
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            yield int(status.parent.name)


class Target:
    """One way to use a server: its database, checks and sessions, all to be awaited."""

    def __init__(self, server, driver):
        self.is_blocking = driver == "blocking"
        if self.is_blocking:
            self.database = Database(server.url(driver="psycopg"), connect_args={"connect_timeout": 2})
        else:
            self.database = AsyncDatabase(server.url(driver=driver))

    async def check(self, target=None):
        target = target or self.database
        async with asyncio.timeout(FAR_BEYOND_SECONDS):
            if self.is_blocking:
                return await asyncio.to_thread(BRIEF.check_health, target)
            return await BRIEF.check_health(target)

    async def run(self, method, *arguments):
        result = method(*arguments)
        return result if self.is_blocking else await result


@pytest.fixture(params=DRIVERS)
async def target(server, request):
    made = Target(server, request.param)
    yield made
    await made.run(made.database.dispose)


async def test_a_killed_server_is_unhealthy_at_once_and_healthy_when_it_is_back(server, target):
    assert (await target.check()).is_healthy
    server.kill()
    try:
        async with asyncio.timeout(2):
            result = await target.check()
    finally:
        server.start()
    assert result.status is HealthStatus.UNHEALTHY
    # A machine that is busy enough finds out by the deadline.
    assert result.message in {"The server cannot be reached.", "No connection within 0.8 s."}
    assert (await target.check()).is_healthy


async def test_a_frozen_server_is_unhealthy_at_the_deadline_and_healthy_once_thawed(server, target):
    assert (await target.check()).is_healthy
    with frozen(server):
        for _ in range(2):
            result = await target.check()
            assert result.status is HealthStatus.UNHEALTHY
            assert "within" in result.message
    async with asyncio.timeout(20):
        while not (await target.check()).is_healthy:
            pass
    assert threading.active_count() < 20


async def test_a_session_on_a_frozen_server_ends_at_the_deadline_and_is_told_as_lost(server, target):
    session = target.database.session_factory()
    await target.run(session.execute, SELECT_1)
    with frozen(server):
        result = await target.check(session)
        assert (result.status, result.message) == ("unhealthy", "No answer to a query within 0.4 s.")
        assert "roll the session back" in (await target.check(session)).message
    await target.run(session.rollback)
    await target.run(session.execute, SELECT_1)
    await target.run(session.close)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_cancelled_check_ends_at_once_and_the_next_one_works(server, driver):
    async with AsyncDatabase(server.url(driver=driver)) as database:
        assert (await BRIEF.check_health(database)).is_healthy
        patient = DatabaseHealthChecker(connection_timeout=60, query_timeout=60)
        with frozen(server):
            task = asyncio.create_task(patient.check_health(database))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            async with asyncio.timeout(FAR_BEYOND_SECONDS):
                with pytest.raises(asyncio.CancelledError):
                    await task
        assert (await patient.check_health(database)).is_healthy


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_server_that_never_says_a_word_is_unhealthy_at_the_deadline(driver):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]

        class Silent:
            def url(self, *, driver):
                return f"postgresql+{driver}://me:hidden-word@127.0.0.1:{port}/shop"

        target = Target(Silent(), driver)
        result = await target.check()
        assert (result.status, result.message[:24]) == ("unhealthy", "No connection within 0.4")
        assert "hidden-word" not in str(result.to_dict())
        await target.run(target.database.dispose)


def test_a_session_whose_backend_was_terminated_is_unhealthy_until_rolled_back(server):
    with (
        Database(server.url(driver="psycopg", role="admin")) as admin,
        Database(server.url(driver="psycopg")) as database,
        database.session_factory() as session,
    ):
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        with admin.create_session() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        assert BRIEF.check_health(session).status is HealthStatus.UNHEALTHY
        with pytest.raises(PendingRollbackError):
            session.execute(SELECT_1)
        assert "roll the session back" in BRIEF.check_health(session).message
        session.rollback()
        assert BRIEF.check_health(session).is_healthy
