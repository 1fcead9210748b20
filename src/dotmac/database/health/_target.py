"""What can be checked, and what checking it means: an engine's server, or the connection a session works on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session

from dotmac.database.engine import AsyncDatabase, Database

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

    SyncTarget = Session | Engine | Database
    AsyncTarget = AsyncSession | AsyncEngine | AsyncDatabase
    Target = SyncTarget | AsyncTarget


@dataclass(frozen=True, slots=True)
class Subject:
    """What a target comes down to.

    Attributes:
        engine: The engine; of an asyncio target, its ``sync_engine``.
        connection: The connection that a session's transaction runs on, if it has one.
        complaint: Why a session cannot be used any more, if so.
    """

    engine: Engine
    connection: Connection | None = None
    complaint: str | None = None


def is_async_target(target: Target) -> TypeGuard[AsyncTarget]:
    """Whether checking ``target`` has to be awaited."""
    # By attribute: importing sqlalchemy.ext.asyncio is slow, and blocking code does not need it.
    return (
        isinstance(target, AsyncDatabase) or hasattr(target, "sync_session") or hasattr(target, "sync_engine")
    )


def subject_of(target: Target) -> Subject:
    """Resolve ``target``; an `AsyncDatabase` inside its event loop. Nothing connects, and no transaction begins.

    A session outside a transaction stands for its engine: asking on it would begin one and take a slot of the pool.

    Raises:
        TypeError: It is none of the kinds of target.
        sqlalchemy.exc.UnboundExecutionError: The session has no engine.
    """
    plain: Any = target
    if isinstance(plain, AsyncDatabase | Database):
        plain = plain.engine
    plain = getattr(plain, "sync_session", None) or getattr(plain, "sync_engine", None) or plain
    if isinstance(plain, Engine):
        return Subject(plain)
    if isinstance(plain, Session):
        return _of_session(plain)
    raise TypeError(
        f"A health check takes a Session, AsyncSession, Engine, AsyncEngine, Database or AsyncDatabase, not "
        f"{type(target).__name__}."
    )


def _of_session(session: Session) -> Subject:
    connection = _working_connection(session)
    if connection is None:
        bind = session.get_bind()
        if isinstance(bind, Engine):
            return Subject(bind, complaint=_complaint(session, None))
        connection = bind
    return Subject(connection.engine, connection, _complaint(session, connection))


def _working_connection(session: Session) -> Connection | None:
    transaction = session.get_nested_transaction() or session.get_transaction()
    while transaction is not None:
        for connection, *_ in transaction._connections.values():  # noqa: SLF001 - session.connection() would take one
            return connection
        transaction = transaction.parent
    return None


def _complaint(session: Session, connection: Connection | None) -> str | None:
    if session.in_transaction() and not session.is_active:
        return "The session's transaction failed and cannot be used; roll it back."
    if connection is not None and (connection.closed or connection.invalidated):
        return "The session's connection was lost; roll the session back."
    return None
