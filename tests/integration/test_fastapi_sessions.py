"""Sessions under FastAPI on a real server: when they commit, what they share, what they refuse."""

# ruff: noqa: B008, FAST002, TC002 - FastAPI reads defaults and annotations at run time

from __future__ import annotations

import asyncio
import contextlib

import anyio.from_thread
import asyncpg
import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sqlalchemy import ForeignKey, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from dotmac.database.engine import AsyncDatabase
from dotmac.database.errors import ConfigurationError
from dotmac.database.fastapi import (
    RequestContextMiddleware,
    database_lifespan,
    get_db,
    get_read_session,
    get_write_session,
    install_error_handlers,
    set_database,
)
from dotmac.database.models import Base
from dotmac.database.settings import DatabaseSettings


class ServedParent(Base):
    __tablename__ = "served_parents"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class ServedChild(Base):
    __tablename__ = "served_children"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int] = mapped_column(
        ForeignKey("served_parents.id", deferrable=True, initially="DEFERRED")
    )


class ParentRead(BaseModel):
    id: int
    name: str


TABLES = [ServedParent.__table__, ServedChild.__table__]


@pytest.fixture(params=["postgresql", "sqlite"])
async def database(request, tmp_path):
    url = f"sqlite+aiosqlite:///{tmp_path}/served.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("dotmac_database").url()
    async with AsyncDatabase(url, pool_size=3, max_overflow=0, pool_timeout=5) as database:
        async with database.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all, tables=TABLES)
        yield database
        assert database.engine.pool.checkedout() == 0
        async with database.engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all, tables=TABLES)


def _application(database: AsyncDatabase) -> FastAPI:  # noqa: C901 - one route per case
    app = FastAPI()
    set_database(app, database)
    app.state.sessions = []

    def service(db: AsyncSession = Depends(get_db)) -> AsyncSession:
        return db

    @app.post("/parents", response_model=ParentRead)
    async def create(name: str, db: AsyncSession = Depends(get_db)):
        parent = ServedParent(name=name)
        db.add(parent)
        await db.flush()
        return parent

    @app.post("/committed", response_model=ParentRead)
    async def committed(name: str, db: AsyncSession = Depends(get_db)):
        parent = ServedParent(name=name)
        db.add(parent)
        await db.commit()
        return parent

    @app.post("/deferred")
    async def deferred(db: AsyncSession = Depends(get_db)):
        db.add(ServedChild(parent_id=-1))
        return {"created": True}

    @app.post("/raises")
    async def raises(db: AsyncSession = Depends(get_db)):
        db.add(ServedParent(name="raised"))
        await db.flush()
        raise HTTPException(418)

    @app.post("/unserializable", response_model=ParentRead)
    async def unserializable(db: AsyncSession = Depends(get_db)):
        db.add(ServedParent(name="unserializable"))
        return {"id": "none"}

    @app.post("/threaded")
    def threaded(db: AsyncSession = Depends(get_db)):
        db.add(ServedParent(name="threaded"))
        return anyio.from_thread.run(db.scalar, select(1))

    @app.get("/shared")
    async def shared(
        one: AsyncSession = Depends(get_db),
        two: AsyncSession = Depends(get_write_session),
        three: AsyncSession = Depends(service),
        four: AsyncSession = Depends(get_db, scope="function"),
        five: AsyncSession = Depends(get_db, use_cache=False),
        read: AsyncSession = Depends(get_read_session),
    ):
        return [one is other for other in (two, three, four, five, read)]

    @app.post("/read-only")
    async def read_only(db: AsyncSession = Depends(get_read_session)):
        db.add(ServedParent(name="read-only"))
        await db.flush()

    @app.get("/names")
    async def names(db: AsyncSession = Depends(get_read_session)):
        return list(await db.scalars(select(ServedParent.name)))

    @app.get("/late")
    async def late(tasks: BackgroundTasks, db: AsyncSession = Depends(get_db)):
        async def use_it_late():
            try:
                await db.execute(select(1))
            except Exception as error:  # noqa: BLE001 - the kind is what is looked at
                app.state.sessions.append(type(error).__name__)
            async with get_db() as own:
                app.state.sessions.append((await own.execute(select(1))).scalar())

        tasks.add_task(use_it_late)

    @app.get("/stream")
    async def stream(db: AsyncSession = Depends(get_db)):
        async def body():
            with contextlib.suppress(Exception):
                await db.execute(select(1))
                yield "closed session answered"
            async with get_db() as own:
                yield str((await own.execute(select(1))).scalar())

        return StreamingResponse(body())

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, db: AsyncSession = Depends(get_db)):
        await websocket.accept()

    return app


@contextlib.asynccontextmanager
async def client_of(app):
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
async def client(database):
    async with client_of(_application(database)) as client:
        yield client


@pytest.mark.parametrize("path", ["/parents", "/committed"])
async def test_a_created_row_is_returned_and_committed(client, path):
    answer = await client.post(path, params={"name": "ann"})
    assert answer.json() == {"id": 1, "name": "ann"}
    assert (await client.get("/names")).json() == ["ann"]


async def test_a_refused_commit_is_a_server_error(client):
    assert (await client.post("/deferred")).status_code == 500


@pytest.mark.parametrize(("path", "status"), [("/raises", 418), ("/unserializable", 500)])
async def test_an_error_rolls_back(client, path, status):
    assert (await client.post(path)).status_code == status
    assert (await client.get("/names")).json() == []


async def test_an_endpoint_in_a_thread_commits_too(client):
    assert (await client.post("/threaded")).json() == 1
    assert (await client.get("/names")).json() == ["threaded"]


async def test_one_request_has_one_session_of_each_kind(client):
    assert (await client.get("/shared")).json() == [True, True, True, True, False]


async def test_two_requests_have_two_sessions(database):
    app = _application(database)
    seen = []

    @app.get("/which")
    async def which(db: AsyncSession = Depends(get_db)):
        seen.append(db)

    async with client_of(app) as client:
        await asyncio.gather(client.get("/which"), client.get("/which"))
    assert seen[0] is not seen[1]


async def test_a_read_session_cannot_write(client):
    assert (await client.post("/read-only")).status_code == 500
    assert (await client.get("/names")).json() == []


async def test_a_background_task_finds_the_session_closed_and_opens_its_own(database):
    app = _application(database)
    app.add_middleware(RequestContextMiddleware)
    async with client_of(app) as client:
        assert (await client.get("/late")).status_code == 200
    assert app.state.sessions == ["InvalidRequestError", 1]


async def test_a_stream_finds_the_session_closed_and_opens_its_own(database):
    app = _application(database)
    async with database_lifespan(database)(app), client_of(app) as client:
        assert (await client.get("/stream")).text == "1"


async def test_a_websocket_dependency_is_refused(database):
    app = _application(database)
    scope = {
        "type": "websocket",
        "path": "/socket",
        "headers": [],
        "query_string": b"",
        "subprotocols": [],
    }

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        pytest.fail(f"sent {message}")

    with pytest.raises(ConfigurationError, match="WebSocket"):
        await app(scope, receive, send)


async def test_overriding_the_dependency_works(database):
    app = _application(database)

    async def instead():
        async with database.create_session() as session:
            session.info["overridden"] = True
            yield session

    app.dependency_overrides[get_db] = instead

    @app.get("/overridden")
    async def overridden(db: AsyncSession = Depends(get_db)):
        return db.info.get("overridden")

    async with client_of(app) as client:
        assert (await client.get("/overridden")).json() is True


async def test_a_router_with_the_dependency_works(database):
    app = FastAPI(dependencies=[Depends(get_db)])
    set_database(app, database)

    @app.get("/")
    async def root():
        return 1

    async with client_of(app) as client:
        assert (await client.get("/")).status_code == 200


async def test_the_row_is_visible_elsewhere_when_the_response_starts(dotmac_database):
    url = dotmac_database.url()
    watcher = await asyncpg.connect(url.replace("+asyncpg", ""))
    seen = []
    async with AsyncDatabase(url) as database:
        async with database.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all, tables=TABLES)
        app = _application(database)

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            rows = await watcher.fetchval("SELECT count(*) FROM served_parents WHERE name = 'early'")
            open_transactions = await watcher.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
                " AND datname = current_database()"
            )
            seen.append((message["type"], rows, open_transactions))

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/parents",
            "query_string": b"name=early",
            "headers": [],
        }
        await app(scope, receive, send)
        async with database.engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all, tables=TABLES)
    await watcher.close()
    assert seen == [("http.response.start", 1, 0), ("http.response.body", 1, 0)]


async def test_read_sessions_are_read_only_at_the_server(dotmac_database):
    async with AsyncDatabase(dotmac_database.url()) as database:
        app = FastAPI()

        @app.get("/")
        async def modes(
            read: AsyncSession = Depends(get_read_session), write: AsyncSession = Depends(get_write_session)
        ):
            question = text("SHOW transaction_read_only")
            return [await session.scalar(question) for session in (read, write)]

        async with database_lifespan(database)(app), client_of(app) as client:
            assert (await client.get("/")).json() == ["on", "off"]


async def test_read_sessions_go_to_the_replica(dotmac_postgres, dotmac_database):
    replica = f"{dotmac_database.name}_replica"
    dotmac_postgres.create_database(replica)
    try:
        settings = DatabaseSettings(url=dotmac_database.url(), read_database_url=dotmac_postgres.url(replica))
        app = FastAPI(lifespan=database_lifespan(settings=settings))

        @app.get("/")
        async def where(read: AsyncSession = Depends(get_read_session), db: AsyncSession = Depends(get_db)):
            question = text("SELECT current_database()")
            return [await session.scalar(question) for session in (read, db)]

        async with app.router.lifespan_context(app), client_of(app) as client:
            assert (await client.get("/")).json() == [replica, dotmac_database.name]
    finally:
        dotmac_postgres.drop_database(replica)


async def test_a_busy_pool_answers_503(dotmac_database):
    async with AsyncDatabase(
        dotmac_database.url(), pool_size=1, max_overflow=0, pool_timeout=0.05
    ) as database:
        app = FastAPI()
        install_error_handlers(app)
        set_database(app, database)

        @app.get("/")
        async def root(db: AsyncSession = Depends(get_db)):
            await db.execute(select(1))

        async with client_of(app) as client, database.create_session() as holder:
            await holder.execute(select(1))
            answer = await client.get("/")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
