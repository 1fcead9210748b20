"""Where a fresh session for each attempt comes from: a factory, an engine, a database, or the environment."""

from __future__ import annotations

import threading
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from dotmac.database.engine import AsyncDatabase, Database, create_session_factory, get_async_db_connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

    Source = (
        Database | AsyncDatabase | Engine | AsyncEngine | Callable[[], Session] | Callable[[], AsyncSession]
    )

_lock = threading.Lock()


def is_async_session(value: object) -> bool:
    """True for an ``AsyncSession``, without importing SQLAlchemy's asyncio for blocking code."""
    return isinstance(getattr(value, "sync_session", None), Session)


def check_source(source: Any) -> None:
    """Refuse what sessions cannot come from.

    Raises:
        TypeError: ``source`` is neither a factory, an engine, a database nor None.
    """
    if isinstance(source, Session) or is_async_session(source):
        raise TypeError("A fresh session is needed for each attempt: pass a session factory, not a session.")
    is_engine = isinstance(getattr(source, "sync_engine", source), Engine)
    if not (source is None or is_engine or isinstance(source, Database | AsyncDatabase) or callable(source)):
        raise TypeError(
            f"Sessions come from a session factory, an engine, a Database or an AsyncDatabase, not from "
            f"{type(source).__name__}."
        )


def fresh_session(source: Source | None) -> Session:
    """A blocking session from ``source``, or from the environment's database."""
    if source is None:
        source = _process_wide()
    if isinstance(source, Database):
        source = source.session_factory
    elif isinstance(source, Engine):
        source = create_session_factory(source)
    made: Any = source() if callable(source) else source
    if not isinstance(made, Session):
        raise TypeError(
            "This source makes asyncio sessions: use async_execute_with_retry, or async functions."
        )
    return made


def fresh_async_session(source: Source | None) -> AsyncSession:
    """Same as `fresh_session`, for asyncio."""
    if source is None:
        source = get_async_db_connection()
    if isinstance(source, AsyncDatabase):
        source = source.session_factory
    elif hasattr(source, "sync_engine"):
        source = create_session_factory(cast("AsyncEngine", source))
    made: Any = source() if callable(source) else source
    if not is_async_session(made):
        raise TypeError("This source makes blocking sessions: use execute_with_retry, or plain functions.")
    session: AsyncSession = made
    return session


def _process_wide() -> Database:
    with _lock:
        return _made_once()


@cache
def _made_once() -> Database:
    return Database()
