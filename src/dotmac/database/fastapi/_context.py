"""On whose behalf a request works: its tenant, user, id and address, bound for the whole request.

`RequestContextMiddleware` is the carrier: it covers the endpoint, threads, streaming bodies and background tasks.
`RequestContextDependency` is for routes that demand a tenant; it works with the middleware or alone.
"""

from __future__ import annotations

import inspect
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Header, HTTPException, WebSocketException
from fastapi.requests import HTTPConnection

from dotmac.database.context import RequestContext, current_context, use_context
from dotmac.database.errors import ConfigurationError
from dotmac.database.fastapi._databases import database_of, request_database
from dotmac.database.fastapi._refusals import answer_refusal, refusal
from dotmac.database.fastapi._sessions import SESSIONS
from dotmac.database.fastapi._tenant_sources import HeaderTenant, Resolver, header_tenant, resolved
from dotmac.database.tenancy import SESSION_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncSession
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_REQUEST_ID = "X-Request-ID"
_MAX_ID_CHARS = 255
_SCOPE_KEY = "dotmac_context"
_FROM_HEADER = header_tenant()


class RequestContextMiddleware:
    """ASGI middleware that binds a `RequestContext`, and the application's database, for the whole request.

    ``app.add_middleware(RequestContextMiddleware, resolve_tenant=…, resolve_user=…)``. A request without a tenant
    passes: tenant models then refuse, and so does `RequestContextDependency`. A malformed tenant or user is answered
    with 400, or by closing the WebSocket; nothing of the application runs. In a mounted application's own middleware,
    another tenant than the outer one's is answered with 403. A resolver may raise ``HTTPException`` to refuse by itself.
    The request's id comes from ``X-Request-ID``, or is made, and goes back in the response.
    """

    def __init__(
        self, app: ASGIApp, *, resolve_tenant: Resolver = _FROM_HEADER, resolve_user: Resolver | None = None
    ) -> None:
        self._app = app
        self._resolve_tenant = resolve_tenant
        self._resolve_user = resolve_user

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        try:
            connection = HTTPConnection(scope)
            context = await _read_context(connection, self._resolve_tenant, self._resolve_user)
            if (outer := scope.get(_SCOPE_KEY)) is not None:  # of the application that this one is mounted in
                context = _agreed(connection, outer, context)
        except (HTTPException, WebSocketException) as error:
            await answer_refusal(error, scope, receive, send)
            return
        scope[_SCOPE_KEY] = context
        request_id = (context.request_id or "").encode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                name = _REQUEST_ID.lower().encode()
                headers = list(message.get("headers", ()))
                if all(known.lower() != name for known, _ in headers):
                    message = {**message, "headers": [*headers, (name, request_id)]}
            await send(message)

        token = request_database.set(database_of(scope.get("app")) or request_database.get())
        try:
            with use_context(context):
                await self._app(scope, receive, send_with_id)
        finally:
            request_database.reset(token)


class RequestContextDependency:
    """A dependency that gives the request's `RequestContext` and refuses a request without a tenant.

    With `RequestContextMiddleware` in place the tenant is the one bound there; naming another is answered with 403.
    Alone, it binds the context for the endpoint and for sessions of the same request, whichever comes first in the
    signature. FastAPI runs plain (not async) dependencies in threads that see the context but cannot change it.

    Args:
        resolve_tenant: Where the tenant is; by default in the header ``X-Tenant-ID``.
        resolve_user: Where the user is; by default nowhere.
        required: Whether a request without a tenant is refused.
        missing_status: The status it is refused with: 400, 401 or 403.

    Raises:
        HTTPException: 400 for a malformed tenant, ``missing_status`` for none, 403 for another than the one bound.
        ConfigurationError: A session of this request was used before the tenant was known.
    """

    def __init__(
        self,
        resolve_tenant: Resolver = _FROM_HEADER,
        *,
        resolve_user: Resolver | None = None,
        required: bool = True,
        missing_status: int = 400,
    ) -> None:
        self._resolve_tenant = resolve_tenant
        self._resolve_user = resolve_user
        self._required = required
        self._missing_status = missing_status
        self.__signature__ = _documented(resolve_tenant)

    async def __call__(self, connection: HTTPConnection, **_documented: Any) -> AsyncIterator[RequestContext]:
        """Bind the context until the response is sent."""
        asked = await _read_context(connection, self._resolve_tenant, self._resolve_user)
        context = _agreed(connection, current_context(), asked)
        if self._required and context.tenant_id is None:
            raise refusal(connection, self._missing_status, _missing(self._resolve_tenant))
        for session in connection.scope.get(SESSIONS, ()):
            _bind(session, context)
        with use_context(context):
            yield context


def _agreed(connection: HTTPConnection, outer: RequestContext, asked: RequestContext) -> RequestContext:
    if outer.tenant_id is not None and asked.tenant_id not in {None, outer.tenant_id}:
        raise refusal(connection, 403, "The request names another tenant than the one it belongs to.")
    return replace(
        asked,
        tenant_id=outer.tenant_id or asked.tenant_id,
        user_id=asked.user_id or outer.user_id,
        request_id=outer.request_id or asked.request_id,
    )


async def _read_context(
    connection: HTTPConnection, resolve_tenant: Resolver, resolve_user: Resolver | None
) -> RequestContext:
    client = connection.client
    return RequestContext(
        tenant_id=await resolved(connection, "tenant", resolve_tenant),
        user_id=await resolved(connection, "user", resolve_user) if resolve_user is not None else None,
        request_id=_request_id(connection.headers.get(_REQUEST_ID)),
        client_ip=client.host if client is not None else None,
    )


def _request_id(given: str | None) -> str:
    usable = given is not None and 0 < len(given) <= _MAX_ID_CHARS and given.isascii() and given.isprintable()
    return given if usable and given is not None else uuid.uuid4().hex


def _bind(session: AsyncSession, context: RequestContext) -> None:
    bound = session.info.get(SESSION_KEY)
    if bound == context:
        return
    if not session.in_transaction():
        session.info[SESSION_KEY] = context
    elif bound is None or bound.tenant_id != context.tenant_id:
        raise ConfigurationError(
            "A session of this request was used before its tenant was known, and a session never changes tenant. Look "
            "things up with a session of its own (async with get_db()), or resolve the tenant in "
            "RequestContextMiddleware."
        )


def _documented(resolve: Resolver) -> inspect.Signature:
    """What FastAPI sees: the connection, and for its documentation the header."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("connection", keyword, annotation=HTTPConnection)]
    if isinstance(resolve, HeaderTenant):
        header = Annotated[str | None, Header(alias=resolve.name, description="The tenant.")]
        parameters.append(inspect.Parameter("tenant", keyword, default=None, annotation=header))
    return inspect.Signature(parameters)


def _missing(resolve: Resolver) -> str:
    where = f" Name it in the header {resolve.name}." if isinstance(resolve, HeaderTenant) else ""
    return f"The request names no tenant.{where}"


tenant_from_request = RequestContextDependency()
"""``Depends(tenant_from_request)``: the tenant is in the header ``X-Tenant-ID``, and is required."""

require_tenant = RequestContextDependency(lambda _connection: None)
"""``Depends(require_tenant)``: the tenant that `RequestContextMiddleware` found, wherever it was; without one, 400."""
