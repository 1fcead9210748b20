"""Watches sessions that are inside one of our transactions: nobody else commits them, and swallowed errors show.

Listening is global, because a session is handed in by the caller; each listener looks for our mark and leaves every
other session alone.
"""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.orm import Session

from dotmac.database.errors import ConfigurationError, TransactionStateError
from dotmac.database.transactions._classification import ErrorKind, classify

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Dialect, ExceptionContext

    from dotmac.database.transactions._core import TransactionCore

MARK = "dotmac_transaction"
"""Where a session keeps the transaction of ours that it is in, in ``session.info``."""

_FAILED = "dotmac_failed_transaction"
_watched: weakref.WeakSet[Dialect] = weakref.WeakSet()


class CommitWitness:
    """Notes whether any session committed, or may have, while it was in force."""

    __slots__ = ("committed",)

    def __init__(self) -> None:
        self.committed = False


witness: ContextVar[CommitWitness | None] = ContextVar("dotmac_database_commit_witness", default=None)


@event.listens_for(Session, "after_begin")
def _join(session: Session, _transaction: object, connection: Connection) -> None:
    core: TransactionCore | None = session.info.get(MARK)
    if core is not None:
        admit(core, connection)


def admit(core: TransactionCore, connection: Connection) -> None:
    """Let ``connection`` take part in a transaction.

    Raises:
        ConfigurationError: It commits every statement by itself.
    """
    if connection._is_autocommit_isolation():  # noqa: SLF001 - the only place that knows engine and connection options
        raise ConfigurationError(
            "This engine is in AUTOCOMMIT: every statement is committed by itself, so there is no transaction to "
            "commit, roll back or try again. Use an engine without isolation_level='AUTOCOMMIT'."
        )
    if connection not in core.connections:
        core.connections.append(connection)
        core.begun.append(connection.get_transaction())
    if connection.dialect not in _watched:
        _watched.add(connection.dialect)
        event.listen(connection.dialect, "handle_error", _remember_failure)


def _remember_failure(context: ExceptionContext) -> None:
    connection = context.connection
    if connection is None or connection.closed or connection.invalidated:
        return
    # Inside a savepoint the error is undone with it, or else RELEASE SAVEPOINT fails by itself.
    if connection.get_nested_transaction() is None:
        connection.info[_FAILED] = (connection.get_transaction(), context.original_exception)


@event.listens_for(Session, "before_commit")
def _refuse_foreign_commit(session: Session) -> None:
    core: TransactionCore | None = session.info.get(MARK)
    if core is None or core.is_committing or session.in_nested_transaction():
        return
    raise TransactionStateError(
        "commit() was called inside a transaction that commits by itself at its end. Leave it out: what a retried "
        "callable had committed would be done twice. Nothing was committed."
    )


@event.listens_for(Session, "after_commit", insert=True)  # another listener may fail
def _witness(session: Session) -> None:
    if session.in_nested_transaction():
        return
    core: TransactionCore | None = session.info.get(MARK)
    if core is not None:
        core.has_committed = True
    watching = witness.get()
    if watching is not None:
        watching.committed = True


def swallowed_error(connection: Connection) -> BaseException | None:
    """The error that the transaction on ``connection`` did not survive though nobody raised it; None if it lives.

    PostgreSQL answers COMMIT of such a transaction with ROLLBACK, which no driver reports.
    """
    if connection.closed or connection.invalidated:
        return None
    transaction, error = connection.info.pop(_FAILED, (None, None))
    if error is None or transaction is not connection.get_transaction():
        return None
    return error if _is_broken(connection, error) else None


def _is_broken(connection: Connection, error: BaseException) -> bool:
    backend = connection.dialect.name
    if backend == "postgresql":
        try:
            connection.exec_driver_sql("SELECT 1")  # refused with 25P02 if so
        except Exception:  # noqa: BLE001 - any answer but a row means that nothing can be committed
            return True
        return False
    if backend == "sqlite":
        driver: Any = connection.connection.driver_connection
        return not driver.in_transaction
    return classify(error).kind is ErrorKind.CONFLICT
