"""Which database a request uses: its application's own, else the one the environment names.

An application's database is in ``app.state``, put there by a lifespan or by `set_database`. Code that has no request
at hand finds it through `RequestContextMiddleware`, or because one application runs on this event loop.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from dotmac.database.engine import AsyncDatabase, get_async_db_connection
from dotmac.database.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from starlette.applications import Starlette

    from dotmac.database.settings import DatabaseSettings

    Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]

_STATE = "dotmac_database"

request_database: ContextVar[AsyncDatabase | None] = ContextVar("dotmac_request_database", default=None)
"""The database of the application that serves this request, where the middleware knows it."""

_running: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[AsyncDatabase]] = (
    weakref.WeakKeyDictionary()
)


def set_database(app: Starlette, database: AsyncDatabase) -> None:
    """Give ``app`` its own database, for instance in a test that runs no lifespan. Nothing connects."""
    setattr(app.state, _STATE, database)


def database_lifespan(
    database: AsyncDatabase | None = None, settings: DatabaseSettings | None = None
) -> Lifespan:
    """A lifespan that gives an application its database and disposes it when the application stops.

    The connections of `get_redis_client` are closed with it. Without arguments it is the process-wide one. Nothing
    connects at start-up. In a lifespan of your own, enter it around the rest:
    ``async with database_lifespan(database)(app): yield``.

    Raises:
        TypeError: Both a database and settings are given.
    """
    if database is not None and settings is not None:
        raise TypeError("database_lifespan() takes a database or settings, not both.")

    @asynccontextmanager
    async def run(app: Starlette) -> AsyncIterator[None]:
        chosen = database or (get_async_db_connection() if settings is None else AsyncDatabase(settings))
        outer = database_of(app)
        known = _running.setdefault(asyncio.get_running_loop(), [])
        known.append(chosen)
        set_database(app, chosen)
        try:
            yield
        finally:
            known.remove(chosen)
            if outer is None:
                delattr(app.state, _STATE)
            else:
                set_database(app, outer)
            await chosen.dispose()
            await _close_redis_client()

    return run


lifespan = database_lifespan()
"""``FastAPI(lifespan=lifespan)``: the process-wide database, disposed when the application stops."""


async def _close_redis_client() -> None:
    """Close the running loop's connections of the process-wide Redis client, if caching is used at all."""
    caching = sys.modules.get("dotmac.database.caching")
    if caching is not None:
        await caching.close_redis_client()


def database_of(app: Any) -> AsyncDatabase | None:
    """The database that was given to ``app``, if one was."""
    return getattr(getattr(app, "state", None), _STATE, None)


def database_for(scope: Mapping[str, Any]) -> AsyncDatabase:
    """The database of the application that ``scope`` is a request to."""
    return database_of(scope.get("app")) or current_database()


def current_database() -> AsyncDatabase:
    """The database of whatever runs here, without a request to look at.

    Raises:
        ConfigurationError: Several applications with databases of their own run on this event loop.
    """
    bound = request_database.get()
    if bound is not None:
        return bound
    running = set(_running.get(asyncio.get_running_loop(), ()))
    if len(running) > 1:
        raise ConfigurationError(
            f"{len(running)} applications with databases of their own run here, and nothing tells which one is meant. "
            f"Add RequestContextMiddleware to each, or open the session from the database itself: "
            f"async with database.create_session()."
        )
    return running.pop() if running else get_async_db_connection()
