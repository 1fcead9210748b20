"""One session per request and kind, committed before the response is sent.

Each dependency is a coroutine function with one sub-dependency: an async generator of FastAPI's "function" scope,
whose exit code FastAPI runs after the endpoint returned and before the first byte of the response. Plain
``Depends(get_db)`` therefore commits in time, although FastAPI's own default for generators is after the response.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from contextlib import contextmanager
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, cast

import fastapi
from fastapi import Depends
from fastapi.requests import HTTPConnection
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac.database.engine import with_async_session
from dotmac.database.errors import ConfigurationError, DatabaseUnavailableError
from dotmac.database.fastapi._databases import current_database, database_for
from dotmac.database.transactions import ErrorKind, classify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from contextlib import AbstractAsyncContextManager

    from dotmac.database.engine import AsyncDatabase

    SessionSource = Callable[[], AbstractAsyncContextManager[AsyncSession]]

SESSIONS = "dotmac_sessions"
"""Key of the request's scope under which its open sessions are found."""

if "scope" not in inspect.signature(Depends).parameters:
    raise ConfigurationError(
        f"FastAPI {fastapi.__version__} cannot end a dependency before the response is sent, so a failed COMMIT would "
        f"look like success. Install fastapi>=0.121."
    )


def _primary(database: AsyncDatabase) -> AbstractAsyncContextManager[AsyncSession]:
    # A closed session refuses work: a background task that kept one must not take a connection nobody gives back.
    return with_async_session(lambda: database.session_factory(close_resets_only=False))


def _read_only(database: AsyncDatabase) -> AbstractAsyncContextManager[AsyncSession]:
    return with_async_session(lambda: database.read_session_factory(close_resets_only=False))


@contextmanager
def _outages_named() -> Iterator[None]:
    """A database that is not there is a DatabaseUnavailableError: 503, not 500. A COMMIT in doubt stays what it is."""
    try:
        yield
    except Exception as error:
        if classify(error).kind in {ErrorKind.UNREACHABLE, ErrorKind.DISCONNECTED}:
            raise DatabaseUnavailableError(
                "The database went away, or could not be reached, during the request; nothing was written.",
                waited_seconds=0.0,
                attempts=1,
            ) from error
        raise


def _per_request(
    source: Callable[[AsyncDatabase], AbstractAsyncContextManager[AsyncSession]],
) -> Callable[..., AsyncIterator[AsyncSession]]:
    async def open_session(connection: Any) -> AsyncIterator[AsyncSession]:
        if connection.scope["type"] != "http":
            raise ConfigurationError(
                "A WebSocket has no end of request to commit at: a session for its whole life would hold a transaction "
                "open, and a disconnect would roll everything back. Use `async with get_db()` for each message."
            )
        with _outages_named():
            async with source(database_for(connection.scope)) as session:
                open_sessions: list[AsyncSession] = connection.scope.setdefault(SESSIONS, [])
                open_sessions.append(session)
                try:
                    yield session
                finally:
                    open_sessions.remove(session)

    parameter = inspect.Parameter("connection", inspect.Parameter.KEYWORD_ONLY, annotation=HTTPConnection)
    open_session.__signature__ = inspect.Signature([parameter])  # type: ignore[attr-defined]
    return open_session


_open_primary = _per_request(_primary)
_open_read_only = _per_request(_read_only)


def _also_a_dependency(
    opened: Callable[..., AsyncIterator[AsyncSession]],
) -> Callable[[SessionSource], SessionSource]:
    """Let FastAPI see a coroutine function of the request's session, where everybody else sees ``source``."""

    def decorate(source: SessionSource) -> SessionSource:
        async def hand_over(session: AsyncSession) -> AsyncSession:
            return session

        def call(
            *, session: AsyncSession | None = None
        ) -> AbstractAsyncContextManager[AsyncSession] | Coroutine[Any, Any, AsyncSession]:
            if session is None:
                return source()
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                raise ConfigurationError(
                    f"FastAPI {fastapi.__version__} does not await {source.__name__}: use a version that this library "
                    f"was tested with."
                ) from None
            return hand_over(session)

        update_wrapper(call, source)
        del call.__wrapped__  # type: ignore[attr-defined] # FastAPI would look through to a plain function
        parameter = inspect.Parameter(
            "session",
            inspect.Parameter.KEYWORD_ONLY,
            default=Depends(opened, scope="function"),
            annotation=AsyncSession,
        )
        call.__signature__ = inspect.Signature([parameter])  # type: ignore[attr-defined]
        _mark_as_coroutine_function(call)
        return cast("SessionSource", call)

    return decorate


def _mark_as_coroutine_function(function: Callable[..., Any]) -> None:
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(function)
    else:
        function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]  # noqa: SLF001


@_also_a_dependency(_open_primary)
def get_db() -> AbstractAsyncContextManager[AsyncSession]:
    """A session on the primary: with ``Depends`` in an endpoint, with ``async with`` anywhere else.

    It commits when the endpoint returns or the block ends well, and rolls back on any exception, HTTPException
    included. In an endpoint the COMMIT happens before the response is sent: if it fails, the client sees a 5xx.
    All dependencies of a request share one such session. It is closed before background tasks and streaming bodies
    run; those open their own.

    Raises:
        ConfigurationError: It is a dependency of a WebSocket, or nothing tells which database is meant.
    """
    return _primary(current_database())


@_also_a_dependency(_open_primary)
def get_write_session() -> AbstractAsyncContextManager[AsyncSession]:
    """The same session as `get_db`'s, under the name that says what it is for."""
    return _primary(current_database())


@_also_a_dependency(_open_read_only)
def get_read_session() -> AbstractAsyncContextManager[AsyncSession]:
    """Same as `get_db`, but read-only at the server, and on the replica where one is configured.

    In one request it is another session, and another transaction, than `get_db`'s.
    """
    return _read_only(current_database())
