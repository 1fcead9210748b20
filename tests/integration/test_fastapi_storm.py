"""A storm of requests that are cut off at any moment leaks no connection and leaves no transaction open.

300 requests by default, 2,000 with ``DOTMAC_TEST_FULL=1``.
"""

# ruff: noqa: B008, FAST002, TC002 - FastAPI reads defaults and annotations at run time

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket

import asyncpg
import pytest
import uvicorn
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac.database.engine import AsyncDatabase
from dotmac.database.fastapi import (
    RequestContextMiddleware,
    get_db,
    get_read_session,
    set_database,
)

REQUESTS = 2_000 if os.environ.get("DOTMAC_TEST_FULL") == "1" else 300
AT_ONCE = 20
PATHS = ("/write", "/commit", "/read", "/stream", "/later", "/sync", "/fail")
MARK = f"dotmac_storm_{os.getpid()}"
BACKENDS = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{MARK}'"  # noqa: S608 - constants
BUSY = f"{BACKENDS} AND state <> 'idle'"
BEYOND_THE_POOL = BACKENDS.replace("count(*)", "greatest(0, count(*) - 6)")


@pytest.fixture
async def watcher(dotmac_database):
    connection = await asyncpg.connect(dotmac_database.url(driver=None))
    await connection.execute("CREATE TABLE IF NOT EXISTS storm (id bigserial PRIMARY KEY, path text)")
    yield connection
    await connection.execute("DROP TABLE storm")
    await connection.close()


@pytest.fixture
async def database(dotmac_database, watcher):
    database = AsyncDatabase(
        dotmac_database.url(),
        pool_size=4,
        max_overflow=2,
        connect_args={"server_settings": {"application_name": MARK}},
    )
    yield database
    await database.dispose()
    assert await _settled(watcher, BACKENDS) == 0


async def _settled(watcher: asyncpg.Connection, question: str) -> int:
    """The answer once it is 0, or after the ten seconds the server has to notice that a connection is gone."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            while await watcher.fetchval(question):
                await watcher.execute("SELECT pg_sleep(0.02)")
    return await watcher.fetchval(question)


async def _assert_calm(database: AsyncDatabase, watcher: asyncpg.Connection) -> None:
    assert database.engine.pool.checkedout() == 0
    assert await _settled(watcher, BUSY) == 0
    assert await _settled(watcher, BEYOND_THE_POOL) == 0
    async with contextlib.AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(database.create_session()) for _ in range(6)]
        answers = await asyncio.gather(*(session.scalar(text("SELECT 1")) for session in sessions))
    assert answers == [1] * 6


def _application(database: AsyncDatabase) -> FastAPI:  # noqa: C901 - one route per way to use a session
    app = FastAPI()
    set_database(app, database)
    app.add_middleware(RequestContextMiddleware)
    insert = text("INSERT INTO storm (path) VALUES ('x')")
    pause = text("SELECT pg_sleep(0.002)")

    async def work() -> None:
        async with get_db() as own:
            await own.execute(insert)
            await own.execute(pause)

    @app.get("/write")
    async def write(db: AsyncSession = Depends(get_db)):
        await db.execute(insert)
        await db.execute(pause)

    @app.get("/commit")
    async def commit(db: AsyncSession = Depends(get_db)):
        await db.execute(insert)
        await db.commit()
        await db.execute(pause)

    @app.get("/read")
    async def read(db: AsyncSession = Depends(get_read_session), other: AsyncSession = Depends(get_db)):
        await db.execute(pause)

    @app.get("/sync")
    def sync(db: AsyncSession = Depends(get_db)):
        return 1

    @app.get("/fail")
    async def fail(db: AsyncSession = Depends(get_db)):
        await db.execute(text("SELECT no_such_column"))

    @app.get("/later")
    async def later(tasks: BackgroundTasks, db: AsyncSession = Depends(get_db)):
        await db.execute(insert)
        tasks.add_task(work)

    @app.get("/stream")
    async def stream(db: AsyncSession = Depends(get_db)):
        await db.execute(insert)

        async def body():
            for _ in range(5):
                await work()
                yield b"x" * 1000

        return StreamingResponse(body())

    return app


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()


async def test_cancelled_requests_leak_nothing(database, watcher):
    app = _application(database)
    chance = random.Random(20)  # noqa: S311 - a repeatable storm
    cancelled = 0

    async def one_request() -> None:
        nonlocal cancelled

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            await asyncio.sleep(0)

        path = chance.choice(PATHS)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "method": "GET",
            "path": path,
            "query_string": b"",
            "headers": [],
        }
        task = asyncio.ensure_future(app(scope, receive, send))
        await asyncio.wait({task}, timeout=chance.choice((0, 0.001, 0.003, 0.01, 0.03)))
        for _ in range(chance.randrange(4)):
            task.cancel()
            await asyncio.sleep(0)
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
        cancelled += task.cancelled()

    async def client() -> None:
        for _ in range(REQUESTS // AT_ONCE):
            await one_request()

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    assert cancelled > REQUESTS // 10
    await _assert_calm(database, watcher)


async def test_disconnecting_clients_leak_nothing(database, watcher):
    app = _application(database)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = _Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    chance = random.Random(21)  # noqa: S311 - a repeatable storm

    async def one_request() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = f"GET {chance.choice(PATHS)} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
        writer.write(request[: chance.choice((len(request), len(request), len(request), 9))])
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(chance.choice((0.0005, 0.002, 0.005, 0.02, 0.05))):
                await reader.read(chance.choice((1, 500, 100_000)))
        if chance.random() < 0.5:
            writer.transport.abort()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def client() -> None:
        for _ in range(REQUESTS // AT_ONCE):
            await one_request()

    try:
        await server.is_up.wait()
        await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    finally:
        server.should_exit = True
        await serving
        listener.close()
    await _assert_calm(database, watcher)
