"""The request's context: where it comes from, how far it reaches, and what is refused."""

# ruff: noqa: B008, FAST002 - FastAPI reads defaults and annotations at run time

from __future__ import annotations

import asyncio
from typing import Annotated

import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse

from dotmac.database.context import RequestContext, current_context
from dotmac.database.engine import AsyncDatabase
from dotmac.database.errors import ConfigurationError
from dotmac.database.fastapi import (
    RequestContextDependency,
    RequestContextMiddleware,
    get_db,
    header_tenant,
    set_database,
    tenant_from_request,
)

HOSTILE = [b"a\x00b", b"x" * 300, b"a\x1bb", b"a\tb", b"   ", b"", b"a\x7fb", b"a\xadb"]

Tenant = Annotated[RequestContext, Depends(tenant_from_request)]


def client_of(app) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def _with_middleware(**arguments) -> FastAPI:
    app = FastAPI()
    app.add_middleware(RequestContextMiddleware, **arguments)
    app.state.seen = []

    def in_a_thread() -> str | None:
        return current_context().tenant_id

    @app.get("/async")
    async def asynchronous():
        return current_context().tenant_id

    @app.get("/sync")
    def synchronous(dependency: str | None = Depends(in_a_thread)):
        return [dependency, current_context().tenant_id]

    @app.get("/whole")
    async def whole():
        context = current_context()
        return [context.tenant_id, context.user_id, context.request_id, context.client_ip]

    @app.get("/stream")
    async def stream(tasks: BackgroundTasks):
        async def body():
            await asyncio.sleep(0)
            yield str(current_context().tenant_id)

        tasks.add_task(lambda: app.state.seen.append(current_context().tenant_id))
        return StreamingResponse(body(), background=tasks)

    @app.get("/required")
    async def required(context: Tenant):
        return [context.tenant_id, context.request_id]

    return app


async def test_middleware_context_reaches_threads_streams_and_background_tasks():
    app = _with_middleware()
    async with client_of(app) as client:
        client.headers["X-Tenant-ID"] = "acme"
        assert (await client.get("/async")).json() == "acme"
        assert (await client.get("/sync")).json() == ["acme", "acme"]
        assert (await client.get("/stream")).text == "acme"
    assert app.state.seen == ["acme"]
    assert current_context() == RequestContext()


async def test_concurrent_requests_keep_their_own_tenant():
    async with client_of(_with_middleware()) as client:
        answers = await asyncio.gather(
            *(client.get("/stream", headers={"X-Tenant-ID": f"t{number}"}) for number in range(50))
        )
    assert [answer.text for answer in answers] == [f"t{number}" for number in range(50)]


async def test_resolvers_may_be_async_and_see_the_request():
    async def by_host(connection):
        return connection.headers["host"].split(".")[0]

    app = _with_middleware(resolve_tenant=by_host, resolve_user=lambda _connection: "ann")
    async with client_of(app) as client:
        answer = await client.get("http://acme.test/whole", headers={"X-Request-ID": "r-1"})
    assert answer.json() == ["acme", "ann", "r-1", "127.0.0.1"]
    assert answer.headers["X-Request-ID"] == "r-1"


@pytest.mark.parametrize("given", [b"x" * 300, b"a\x00b", b"\xff", b""])
async def test_an_unusable_request_id_is_replaced(given):
    async with client_of(_with_middleware()) as client:
        answer = await client.get("/whole", headers=[(b"X-Request-ID", given)])
    assert len(answer.json()[2]) == 32
    assert answer.headers["X-Request-ID"] == answer.json()[2]


@pytest.mark.parametrize("tenant", HOSTILE)
async def test_middleware_refuses_a_malformed_tenant(tenant):
    async with client_of(_with_middleware()) as client:
        answer = await client.get("/async", headers=[(b"X-Tenant-ID", tenant)])
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert "tenant" in answer.json()["detail"]


async def test_a_tenant_header_given_twice_is_refused():
    async with client_of(_with_middleware()) as client:
        answer = await client.get("/async", headers=[("X-Tenant-ID", "a"), ("X-Tenant-ID", "b")])
    assert answer.status_code == 400


async def test_a_resolver_refuses_by_raising():
    def refuse(connection):
        raise HTTPException(401, "Log in.", {"WWW-Authenticate": "Bearer"})

    async with client_of(_with_middleware(resolve_tenant=refuse)) as client:
        answer = await client.get("/async")
    assert (answer.status_code, answer.json()["detail"]) == (401, "Log in.")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_middleware_lets_a_request_without_tenant_pass():
    async with client_of(_with_middleware()) as client:
        assert (await client.get("/async")).json() is None
        assert (await client.get("/required")).status_code == 400


async def test_dependency_agrees_with_the_middleware():
    app = _with_middleware(resolve_tenant=lambda _connection: "acme")
    async with client_of(app) as client:
        same = await client.get("/required", headers={"X-Request-ID": "r-2"})
        other = await client.get("/required", headers={"X-Tenant-ID": "evil"})
    assert same.json() == ["acme", "r-2"]
    assert other.status_code == 403


async def test_malformed_tenant_closes_a_websocket():
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    async def never(scope, receive, send):
        pytest.fail("the application was reached")

    scope = {"type": "websocket", "headers": [(b"x-tenant-id", b"a\x00b")], "path": "/", "query_string": b""}
    await RequestContextMiddleware(never)(scope, receive, send)
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1008)]


def _with_dependency(dependency=tenant_from_request) -> FastAPI:
    app = FastAPI()
    set_database(app, AsyncDatabase("sqlite+aiosqlite:///:memory:"))
    bound = Depends(dependency)

    @app.get("/plain")
    async def plain(context: RequestContext = bound):
        return [context.tenant_id, current_context().tenant_id]

    @app.get("/session-first")
    async def session_first(session=Depends(get_db), context: RequestContext = bound):
        return session.info["dotmac_context"].tenant_id

    @app.get("/session-second")
    async def session_second(context: RequestContext = bound, session=Depends(get_db)):
        return session.info["dotmac_context"].tenant_id

    async def used(session=Depends(get_db)):
        await session.connection()

    @app.get("/session-used")
    async def session_used(early: None = Depends(used), context: RequestContext = bound):
        return context.tenant_id

    return app


@pytest.mark.parametrize("path", ["/session-first", "/session-second"])
async def test_sessions_carry_the_tenant_in_either_order(path):
    async with client_of(_with_dependency()) as client:
        assert (await client.get(path, headers={"X-Tenant-ID": "acme"})).json() == "acme"


async def test_a_session_used_before_the_tenant_is_known_is_an_error():
    async with client_of(_with_dependency()) as client:
        with pytest.raises(ConfigurationError, match="before its tenant was known"):
            await client.get("/session-used", headers={"X-Tenant-ID": "acme"})


async def test_dependency_alone_binds_and_unbinds():
    async with client_of(_with_dependency()) as client:
        answer = await client.get("/plain", headers={"X-Tenant-ID": "acme"})
    assert answer.json() == ["acme", "acme"]
    assert current_context() == RequestContext()


@pytest.mark.parametrize("tenant", HOSTILE)
async def test_dependency_refuses_a_malformed_tenant(tenant):
    async with client_of(_with_dependency()) as client:
        answer = await client.get("/plain", headers=[(b"X-Tenant-ID", tenant)])
    assert answer.status_code == 400
    assert "tenant" in answer.json()["detail"]


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_missing_tenant_has_the_chosen_status(status):
    async with client_of(_with_dependency(RequestContextDependency(missing_status=status))) as client:
        answer = await client.get("/plain")
    assert answer.status_code == status
    assert answer.json() == {"detail": "The request names no tenant. Name it in the header X-Tenant-ID."}


async def test_an_optional_tenant_may_be_missing():
    async with client_of(_with_dependency(RequestContextDependency(required=False))) as client:
        assert (await client.get("/plain")).json() == [None, None]


def test_openapi_shows_the_header():
    app = _with_dependency(RequestContextDependency(header_tenant("X-Account")))
    shown = app.openapi()["paths"]["/plain"]["get"]["parameters"]
    assert [(item["in"], item["name"]) for item in shown] == [("header", "X-Account")]
