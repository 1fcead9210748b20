"""Attacks 23 to 28 on real sessions: a context that is missing, lost, left behind, shared or outlived."""

# ruff: noqa: B008, FAST002, TC002 - FastAPI reads defaults and annotations at run time

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from dotmac.database import (
    AsyncDatabase,
    Base,
    ContextExecutor,
    Database,
    RequestContext,
    TenantAwareMixin,
    carry,
    create_async_repository,
    create_repository,
    current_context,
    get_db,
    unscoped,
    use_context,
)
from dotmac.database.errors import MissingTenantError
from dotmac.database.fastapi import (
    RequestContextMiddleware,
    install_error_handlers,
    set_database,
    subdomain_tenant,
)

TENANTS = ("acme", "globex")


class CarriedNote(Base, TenantAwareMixin):
    __tablename__ = "carried_notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


@pytest.fixture(scope="module")
def rows(dotmac_database):
    """One note of each tenant."""
    table = CarriedNote.__table__
    with Database(dotmac_database.url("psycopg")) as database:
        with database.engine.begin() as connection:
            Base.metadata.create_all(connection, tables=[table])
        for name in TENANTS:
            with use_context(RequestContext(tenant_id=name)), database.create_session() as session:
                create_repository(session, CarriedNote).create({"title": f"of {name}"})
        yield database
        with database.engine.begin() as connection:
            Base.metadata.drop_all(connection, tables=[table])


@pytest.fixture
async def database(rows, dotmac_database):
    async with AsyncDatabase(dotmac_database.url(), pool_size=2, max_overflow=0) as database:
        yield database


def titles(database: Database) -> list[str]:
    with database.create_session() as session:
        return [note.title for note in create_repository(session, CarriedNote).list()]


async def titles_of(session: AsyncSession) -> list[str]:
    return [note.title for note in await create_async_repository(session, CarriedNote).list()]


def test_23_no_tenant_is_an_error_and_not_all_rows(rows):
    with pytest.raises(MissingTenantError):
        titles(rows)


def test_24_an_executors_thread_neither_loses_nor_inherits_a_tenant(rows):
    with ThreadPoolExecutor(max_workers=1) as plain, ContextExecutor(max_workers=1) as ours:
        with use_context(RequestContext(tenant_id="acme")):
            with pytest.raises(MissingTenantError):
                plain.submit(titles, rows).result()
            assert plain.submit(carry(titles), rows).result() == ["of acme"]
            assert ours.submit(titles, rows).result() == ["of acme"]
        for pool in (plain, ours):
            with pytest.raises(MissingTenantError):
                pool.submit(titles, rows).result()
        with use_context(RequestContext(tenant_id="globex")):
            assert ours.submit(titles, rows).result() == ["of globex"]


async def test_24_to_thread_carries_the_tenant(rows):
    for name in TENANTS:
        with use_context(RequestContext(tenant_id=name)):
            assert await asyncio.to_thread(titles, rows) == [f"of {name}"]


def test_25_a_worker_thread_forgets_the_job_before(rows):
    def job(name: str | None) -> list[str]:
        with use_context(RequestContext(tenant_id=name)):
            found = titles(rows)
            if name == "acme":
                raise LookupError(found)
            return found

    with ThreadPoolExecutor(max_workers=1) as worker:
        with pytest.raises(LookupError, match="of acme"):
            worker.submit(job, "acme").result()
        with pytest.raises(MissingTenantError):
            worker.submit(job, None).result()
        with pytest.raises(MissingTenantError):
            worker.submit(titles, rows).result()
        assert worker.submit(job, "globex").result() == ["of globex"]


async def test_26_nothing_of_the_process_says_whose_turn_it_is(database):
    both = asyncio.Barrier(2)

    async def work(name: str) -> list[str]:
        with use_context(RequestContext(tenant_id=name)):
            async with database.create_session() as session:
                await both.wait()
                found = await titles_of(session)
                await both.wait()
                return found

    assert await asyncio.gather(*map(work, TENANTS)) == [["of acme"], ["of globex"]]


async def test_26_unscoped_work_of_one_task_is_not_anothers(database):
    both = asyncio.Barrier(2)

    async def see_all() -> int:
        with unscoped("a test of contexts"):
            await both.wait()
            async with database.create_session() as session:
                found = len(await titles_of(session))
            await both.wait()
            return found

    async def see_own() -> int:
        with use_context(RequestContext(tenant_id="acme")):
            await both.wait()
            async with database.create_session() as session:
                found = len(await titles_of(session))
            await both.wait()
            return found

    assert await asyncio.gather(see_all(), see_own()) == [2, 1]


async def test_27_a_session_stays_with_its_tenant_in_whatever_task_it_is_used(database):
    with use_context(RequestContext(tenant_id="acme")):
        async with database.create_session() as session:

            async def elsewhere() -> list[str]:
                with use_context(RequestContext(tenant_id="globex")):
                    return [row.title for row in await create_async_repository(session, CarriedNote).list()]

            assert await asyncio.create_task(elsewhere()) == ["of acme"]


async def test_27_two_tasks_at_once_on_one_session_are_refused(database):
    with use_context(RequestContext(tenant_id="acme")):
        async with database.session_factory() as session:
            answers = await asyncio.gather(titles_of(session), titles_of(session), return_exceptions=True)
    assert any(isinstance(answer, InvalidRequestError) for answer in answers)
    assert all(isinstance(answer, InvalidRequestError) or answer == ["of acme"] for answer in answers)


async def test_27_a_generator_that_outlives_its_block_stays_its_tenants(database):
    async def stream():
        for _ in range(2):
            async with database.create_session() as session:
                yield await titles_of(session)

    with use_context(RequestContext(tenant_id="acme")):
        acme = carry(stream)()
    with use_context(RequestContext(tenant_id="globex")):
        globex = carry(stream)()
        seen = [await anext(acme), await anext(globex), await anext(acme), await anext(globex)]
        assert current_context().tenant_id == "globex"
    await acme.aclose()
    await globex.aclose()
    assert seen == [["of acme"], ["of globex"]] * 2


async def test_28_the_outer_tenant_is_back_after_an_error(database):
    async def fail() -> None:
        with use_context(RequestContext(tenant_id="globex")):
            async with database.create_session() as session:
                assert await titles_of(session) == ["of globex"]
                raise LookupError

    with use_context(RequestContext(tenant_id="acme")):
        with pytest.raises(LookupError):
            await fail()
        async with database.create_session() as session:
            assert await titles_of(session) == ["of acme"]


@pytest.fixture
async def served(database):
    """An application behind a real server, whose tenant is in the host name."""
    app = FastAPI()
    set_database(app, database)
    app.add_middleware(RequestContextMiddleware, resolve_tenant=subdomain_tenant("example.com"))
    install_error_handlers(app)
    app.state.later = asyncio.Queue()

    @app.get("/notes")
    async def notes(db: AsyncSession = Depends(get_db)) -> list[str]:
        return await titles_of(db)

    @app.get("/stream")
    async def stream(tasks: BackgroundTasks) -> StreamingResponse:
        async def body():
            for _ in range(3):
                async with get_db() as session:
                    yield f"{await titles_of(session)}\n"

        async def later() -> None:
            async with get_db() as session:
                app.state.later.put_nowait((current_context().tenant_id, await titles_of(session)))

        tasks.add_task(later)
        return StreamingResponse(body(), background=tasks)

    async with _running(app) as url:
        yield app, url


@asynccontextmanager
async def _running(app):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="error", lifespan="off", ws="none")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


def _client(url: str, tenant: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, headers={"Host": f"{tenant}.example.com"}, trust_env=False)


@pytest.mark.parametrize(
    "host", ["a'--.example.com", "*.example.com", "a.b.example.com", "xn--e1afmkfd.example.com"]
)
async def test_a_hostile_host_is_refused_over_the_wire_before_any_sql(served, database, host):
    _, url = served
    async with httpx.AsyncClient(base_url=url, headers={"Host": host}, trust_env=False) as client:
        answer = await client.get("/notes")
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert database.engine.pool.checkedin() == 0  # nothing ever connected


async def test_a_request_without_a_tenant_sees_nothing(served):
    _, url = served
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        answer = await client.get("/notes")
    assert (answer.status_code, answer.json()["code"]) == (400, "missing_tenant")


async def test_27_streams_and_background_tasks_of_many_requests_keep_their_tenants(served):
    app, url = served

    async def ask(name: str) -> str:
        async with _client(url, name) as client:
            return (await client.get("/stream")).text

    answers = await asyncio.gather(*(ask(name) for name in TENANTS * 4))
    assert answers == [f"['of {name}']\n" * 3 for name in TENANTS * 4]
    later = [await asyncio.wait_for(app.state.later.get(), 30) for _ in answers]
    assert sorted(later) == sorted((name, [f"of {name}"]) for name in TENANTS * 4)


async def test_27_a_stream_that_is_cut_off_leaves_no_tenant_behind(served):
    _, url = served
    for _ in range(3):
        async with _client(url, "acme") as client, client.stream("GET", "/stream") as answer:
            async for line in answer.aiter_lines():
                assert line == "['of acme']"
                break
        async with _client(url, "globex") as client:
            assert (await client.get("/notes")).json() == ["of globex"]
