"""Where the tenant of a request stands, and which requests are refused before anything of the application runs."""

from __future__ import annotations

import asyncio
import uuid

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from hypothesis import given
from hypothesis import strategies as st

from dotmac.database import RequestContext, current_context
from dotmac.database.fastapi import (
    RequestContextDependency,
    RequestContextMiddleware,
    agreed_tenant,
    claim_tenant,
    header_tenant,
    install_error_handlers,
    path_parameter_tenant,
    path_tenant,
    require_tenant,
    subdomain_tenant,
)

HOSTILE = [
    "a'b",
    'a"b',
    "*",
    "%",
    "%25",
    "a;b",
    "..",
    "../acme",
    "a\\b",
    "\x00",
    "a\x1bb",
    "x" * 256,
    "tén",
    "a b",
    "-a",
]
BY_HOST = subdomain_tenant("example.com", "eu.example.com", reserved=("www", "api"))


def _connection_of(headers=(), path="/", **scope):
    from fastapi.requests import HTTPConnection  # noqa: PLC0415 - one place

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return HTTPConnection({"type": "http", "headers": raw, "path": path, "state": {}, **scope})


def _application(resolve, **options) -> FastAPI:
    app = FastAPI()
    app.add_middleware(RequestContextMiddleware, resolve_tenant=resolve, **options)

    @app.get("/{rest:path}")
    async def tenant(rest: str):
        return current_context().tenant_id

    return app


async def _answer(app, *, url="http://test/", **options) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        return await client.get(url, **options)


def _assert_refused(answer: httpx.Response, status: int = 400) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "request_context"


@pytest.mark.parametrize("text", HOSTILE)
async def test_a_hostile_header_is_refused(text):
    raw = [(b"X-Tenant-ID", text.encode())]
    _assert_refused(await _answer(_application(header_tenant()), headers=raw))


@pytest.mark.parametrize("text", [text for text in HOSTILE if ".." not in text])
async def test_a_hostile_path_is_refused(text):
    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    sent: list = []
    scope = {"type": "http", "method": "GET", "path": f"/t/{text}/notes", "headers": [], "query_string": b""}
    await _application(path_tenant())(scope, receive, send)
    assert sent[0]["status"] == 400


@pytest.mark.parametrize(
    ("path", "root_path", "tenant"),
    [
        ("/t/acme", "", "acme"),
        ("/t/acme/notes/7", "", "acme"),
        ("/t/", "", None),
        ("/t", "", None),
        ("/", "", None),
        ("/team/acme", "", None),
        ("/v1/t/acme", "", None),
        ("/v1/t/acme", "/v1", "acme"),
        ("/v10/t/acme", "/v1", None),
    ],
)
def test_the_path_names_the_tenant(path, root_path, tenant):
    assert path_tenant()(_connection_of(path=path, root_path=root_path)) == tenant


def test_the_first_part_of_the_path_can_be_the_tenant():
    assert path_tenant("/")(_connection_of(path="/acme/notes")) == "acme"


@pytest.mark.parametrize(
    ("host", "tenant"),
    [
        ("acme.example.com", "acme"),
        ("ACME.Example.COM:8443", "acme"),
        ("acme.example.com.", "acme"),
        ("acme.eu.example.com", "acme"),
        ("example.com", None),
        ("eu.example.com", None),
        ("www.example.com", None),
        ("api.example.com:80", None),
        ("10.0.0.1:8000", None),
        ("[::1]:8000", None),
        ("acme.example.com.evil.org", None),
        ("acme-example.com", None),
        ("evilexample.com", None),
        ("", None),
    ],
)
def test_the_host_names_the_tenant(host, tenant):
    assert BY_HOST(_connection_of([("Host", host)])) == tenant


@pytest.mark.parametrize(
    "name",
    [
        "a.b",
        "",
        "-a",
        "a-",
        "a_b",
        "x" * 64,
        "xn--80ak6aa92e",
        "a'b",
        "*",
        "%",
        "..",
        "a\u00e9",
        "a/b",
        "a\x00b",
    ],
)
async def test_a_hostile_host_is_refused(name):
    raw = [(b"Host", f"{name}.example.com".encode("latin-1"))]
    _assert_refused(await _answer(_application(BY_HOST), headers=raw))


async def test_two_hosts_are_refused():
    raw = [(b"Host", b"acme.example.com"), (b"Host", b"globex.example.com")]
    _assert_refused(await _answer(_application(BY_HOST), headers=raw))


@given(st.text(st.characters(max_codepoint=255), max_size=80))
def test_whatever_the_host_is_the_tenant_is_a_label_or_none(name):
    try:
        tenant = BY_HOST(_connection_of([("Host", f"{name}.example.com")]))
    except Exception as error:  # noqa: BLE001 - the status is what is looked at
        assert error.status_code == 400  # noqa: PT017 - most names are refused
        return
    assert tenant is None or (
        tenant.isascii() and 0 < len(tenant) <= 63 and tenant.replace("-", "").isalnum()
    )


@pytest.mark.parametrize("domains", [(), ("",), ("*.example.com",), ("example.com", "a b")])
def test_domains_are_checked(domains):
    with pytest.raises(ValueError, match="domains"):
        subdomain_tenant(*domains)


@pytest.mark.parametrize("make", [lambda: path_tenant("t"), agreed_tenant])
def test_resolvers_that_cannot_work_are_refused(make):
    with pytest.raises(ValueError, match="wants"):
        make()


class Authentication:
    """Stands for the application's own: it has verified a token and says what is in it."""

    def __init__(self, app, claims):
        self.app, self.claims = app, claims

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            scope.setdefault("state", {})["claims"] = self.claims
        await self.app(scope, receive, send)


@pytest.mark.parametrize(
    ("claims", "tenant"),
    [
        ({"tenant_id": "acme"}, "acme"),
        ({"tenant_id": uuid.UUID(int=1)}, str(uuid.UUID(int=1))),
        ({"tenant_id": 7}, "7"),
        ({"tenant_id": "Łódź Works"}, "Łódź Works"),
        ({"tenant_id": None}, None),
        ({"sub": "ann"}, None),
        ({}, None),
        (None, None),
        ("not claims", None),
    ],
)
async def test_a_verified_claim_names_the_tenant(claims, tenant):
    app = _application(claim_tenant())
    app.add_middleware(Authentication, claims=claims)
    assert (await _answer(app)).json() == tenant


@pytest.mark.parametrize("value", [["acme", "globex"], {"id": "acme"}, True, 1.5, b"acme"])
async def test_a_claim_that_names_no_single_tenant_is_refused(value):
    app = _application(claim_tenant("org"))
    app.add_middleware(Authentication, claims={"org": value})
    _assert_refused(await _answer(app), 403)


async def test_claims_may_come_from_an_async_function():
    async def claims(connection):
        return {"org": connection.headers["authorization"].removeprefix("Bearer ")}

    app = _application(claim_tenant("org", claims))
    assert (await _answer(app, headers={"Authorization": "Bearer acme"})).json() == "acme"


AGREED = agreed_tenant(BY_HOST, header_tenant(), path_tenant())


@pytest.mark.parametrize(
    ("url", "header", "tenant"),
    [
        ("http://test/", None, None),
        ("http://acme.example.com/", None, "acme"),
        ("http://test/", "acme", "acme"),
        ("http://acme.example.com/t/acme", "acme", "acme"),
    ],
)
async def test_sources_that_agree_name_the_tenant(url, header, tenant):
    headers = {} if header is None else {"X-Tenant-ID": header}
    assert (await _answer(_application(AGREED), url=url, headers=headers)).json() == tenant


@pytest.mark.parametrize(
    ("url", "header"),
    [
        ("http://acme.example.com/", "globex"),
        ("http://acme.example.com/t/globex", "acme"),
        ("http://test/t/acme", "ACME"),
        ("http://acme.example.com/", "a'b"),
    ],
)
async def test_sources_that_disagree_are_refused(url, header):
    _assert_refused(await _answer(_application(AGREED), url=url, headers={"X-Tenant-ID": header}))


@pytest.mark.parametrize("value", [["acme"], b"acme", True, {}])
async def test_a_resolver_that_returns_no_name_is_a_programming_error(value):
    with pytest.raises(TypeError, match="resolver of the tenant"):
        await _answer(_application(lambda _connection: value))


async def test_a_users_id_is_checked_too():
    app = _application(header_tenant(), resolve_user=lambda connection: connection.headers["X-User"])
    _assert_refused(await _answer(app, headers=[(b"X-User", b"a\x00b")]))


async def test_a_path_parameter_names_the_tenant_for_a_router():
    by_path = RequestContextDependency(path_parameter_tenant("account"))
    router = APIRouter(prefix="/a/{account}", dependencies=[Depends(by_path)])

    @router.get("/tenant")
    async def tenant():
        return current_context().tenant_id

    app = FastAPI()
    install_error_handlers(app)
    app.include_router(router)
    assert (await _answer(app, url="http://test/a/acme/tenant")).json() == "acme"
    _assert_refused(await _answer(app, url="http://test/a/a'b/tenant"))


async def test_the_middlewares_tenant_can_be_required_whatever_its_source():
    app = FastAPI()
    app.add_middleware(RequestContextMiddleware, resolve_tenant=BY_HOST)
    install_error_handlers(app)

    @app.get("/")
    async def tenant(context: RequestContext = Depends(require_tenant)):  # noqa: B008, FAST002 - read at run time
        return context.tenant_id

    assert (await _answer(app, url="http://acme.example.com/")).json() == "acme"
    _assert_refused(await _answer(app))


async def test_a_refused_request_does_not_reach_the_application():
    async def never(scope, receive, send):
        pytest.fail("the application was reached")

    app = RequestContextMiddleware(never)
    _assert_refused(await _answer(app, headers={"X-Tenant-ID": "*"}))


async def test_lifespan_passes_untouched():
    seen = []

    async def app(scope, receive, send):
        seen.append((scope["type"], current_context()))

    await RequestContextMiddleware(app)({"type": "lifespan"}, None, None)
    assert seen == [("lifespan", RequestContext())]


async def test_a_websocket_keeps_its_tenant_to_its_end():
    app = FastAPI()
    app.add_middleware(RequestContextMiddleware)

    @app.websocket("/")
    async def echo(socket: WebSocket):
        await socket.accept()
        for _ in range(2):
            await socket.receive_text()
            await socket.send_text(str(current_context().tenant_id))
        await socket.close()

    incoming = asyncio.Queue()
    for message in (
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": "1"},
        {"type": "websocket.receive", "text": "2"},
    ):
        incoming.put_nowait(message)
    sent = []

    async def send(message):
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": "/",
        "headers": [(b"x-tenant-id", b"acme")],
        "query_string": b"",
        "subprotocols": [],
    }
    await app(scope, incoming.get, send)
    assert [message.get("text") for message in sent if message["type"] == "websocket.send"] == [
        "acme",
        "acme",
    ]
    assert current_context() == RequestContext()


async def test_a_plain_generator_body_keeps_the_requests_tenant():
    app = FastAPI()
    app.add_middleware(RequestContextMiddleware)

    @app.get("/")
    async def stream():
        def body():
            for _ in range(3):
                yield f"{current_context().tenant_id} "

        return StreamingResponse(body())

    answers = await asyncio.gather(
        *(_answer(app, headers={"X-Tenant-ID": f"t{number}"}) for number in range(8))
    )
    assert [answer.text for answer in answers] == [f"t{number} " * 3 for number in range(8)]


@pytest.mark.parametrize(
    ("header", "status", "tenant"), [(None, 200, "acme"), ("acme", 200, "acme"), ("globex", 403, None)]
)
async def test_a_mounted_application_cannot_change_the_tenant(header, status, tenant):
    inner = _application(header_tenant())
    outer = FastAPI()
    outer.add_middleware(RequestContextMiddleware, resolve_tenant=BY_HOST)
    outer.mount("/inner", inner)
    headers = {} if header is None else {"X-Tenant-ID": header}
    answer = await _answer(outer, url="http://acme.example.com/inner/x", headers=headers)
    assert answer.status_code == status
    if tenant is not None:
        assert answer.json() == tenant
