"""What a request is told whose tenant or user cannot be accepted: a status and a reason, over HTTP or WebSocket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import HTTPException, WebSocketException

from dotmac.database.fastapi._problems import RequestRefusedError, problem_response

if TYPE_CHECKING:
    from fastapi.requests import HTTPConnection
    from starlette.types import Receive, Scope, Send

_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1


def refusal(connection: HTTPConnection, status: int, detail: str) -> HTTPException | WebSocketException:
    """The exception that refuses ``connection``, whichever kind it is."""
    if connection.scope["type"] == "websocket":
        return WebSocketException(_POLICY_VIOLATION, detail)
    return RequestRefusedError(status, detail)


async def answer_refusal(
    error: HTTPException | WebSocketException, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer by ourselves: outside the application's routes nobody turns these exceptions into an answer."""
    if scope["type"] == "websocket":
        await receive()
        reason = error.reason if isinstance(error, WebSocketException) else str(error.detail)
        # A close frame holds 125 bytes, two of them the code.
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": _cut(reason)})
        return
    if isinstance(error, WebSocketException):
        error = HTTPException(400, error.reason)
    response = problem_response(
        error.status_code, str(error.detail), code="request_context", headers=error.headers
    )
    await response(scope, receive, send)


def _cut(text: str) -> str:
    return text.encode()[:123].decode(errors="ignore")
