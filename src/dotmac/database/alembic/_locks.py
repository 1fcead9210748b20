"""Two promises to a live database: one migrator at a time, and no long queue behind a migration's lock.

PostgreSQL queues every later reader behind an ALTER TABLE that waits, so a migration must stop waiting soon
(``lock_timeout``). Migrators exclude each other by an advisory lock (MySQL: ``GET_LOCK``); SQLite locks its file.
"""

from __future__ import annotations

import hashlib
import logging
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from dotmac.database.errors import MigrationLockedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta

    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection, TextClause

_logger = logging.getLogger("dotmac.database.alembic")

_RETRY_SECONDS: Final = 0.25
_MYSQL: Final = frozenset({"mysql", "mariadb"})


@contextmanager
def migrator_lock(connection: Connection, *, name: str, wait: timedelta) -> Iterator[None]:
    """Hold the database's one migration lock called ``name`` for the block.

    On a connection in a transaction the lock is the transaction's and ends with it; otherwise it is the session's, and
    no transaction is left open.

    Raises:
        MigrationLockedError: Another session held it for all of ``wait``.
    """
    if connection.dialect.name == "postgresql":
        with _postgres_lock(connection, _key(name), wait):
            yield
    elif connection.dialect.name in _MYSQL:
        with _mysql_lock(connection, name, wait):
            yield
    else:
        yield


def _key(name: str) -> int:
    """A 64-bit key for ``name``, the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)


@contextmanager
def _postgres_lock(connection: Connection, key: int, wait: timedelta) -> Iterator[None]:
    external = connection.in_transaction()
    attempt = text(f"SELECT pg_try_advisory_{'xact_' if external else ''}lock(:key)").bindparams(key=key)
    # Tried again and again rather than waited for: a waiting statement holds a snapshot, and the other migrator's
    # CREATE INDEX CONCURRENTLY would wait for that snapshot, for ever. Slept at the server, so that a greenlet yields.
    pause = text("SELECT pg_sleep(:seconds)").bindparams(seconds=_RETRY_SECONDS)
    deadline = time.monotonic() + wait.total_seconds()
    told = False
    while not _scalar(connection, attempt, keep_open=external):
        if time.monotonic() >= deadline:
            raise MigrationLockedError(waited_seconds=wait.total_seconds())
        if not told:
            _logger.info("Another process is migrating this database; waiting up to %s.", wait)
            told = True
        _scalar(connection, pause, keep_open=external)
    try:
        yield
    finally:
        if not external:
            _release(connection, text("SELECT pg_advisory_unlock(:key)").bindparams(key=key))


@contextmanager
def _mysql_lock(connection: Connection, name: str, wait: timedelta) -> Iterator[None]:
    external = connection.in_transaction()
    # The name counts for the whole server and has at most 64 characters.
    lock = hashlib.blake2b(f"{connection.engine.url.database}/{name}".encode(), digest_size=16).hexdigest()
    attempt = text("SELECT GET_LOCK(:lock, :seconds)").bindparams(
        lock=lock, seconds=round(wait.total_seconds())
    )
    if not _scalar(connection, attempt, keep_open=external):
        raise MigrationLockedError(waited_seconds=wait.total_seconds())
    try:
        yield
    finally:
        _release(connection, text("SELECT RELEASE_LOCK(:lock)").bindparams(lock=lock), keep_open=external)


def _scalar(connection: Connection, statement: TextClause, *, keep_open: bool) -> object:
    value: object = connection.execute(statement).scalar()
    if not keep_open:
        connection.commit()
    return value


def _release(connection: Connection, statement: TextClause, *, keep_open: bool = False) -> None:
    try:
        _scalar(connection, statement, keep_open=keep_open)
    except DBAPIError:
        # The lock went with its session; what the migration did stands.
        _logger.warning("The connection that held the migration lock was lost.")


@contextmanager
def bounded_lock_waits(connection: Connection, timeout: timedelta | None) -> Iterator[None]:
    """Let statements in the block wait at most ``timeout`` for a lock; the session's own setting is back afterwards.

    PostgreSQL: ``lock_timeout``. MySQL: ``lock_wait_timeout`` in whole seconds (its default is a day). Two round trips
    each way.
    """
    dialect = connection.dialect.name
    if timeout is None or (dialect != "postgresql" and dialect not in _MYSQL):
        yield
        return
    if dialect == "postgresql":
        read, write = (
            "SELECT current_setting('lock_timeout')",
            "SELECT set_config('lock_timeout', :value, false)",
        )
        value: object = postgres_interval(timeout)
    else:
        read, write = "SELECT @@SESSION.lock_wait_timeout", "SET SESSION lock_wait_timeout = :value"
        value = max(1, round(timeout.total_seconds()))
    external = connection.in_transaction()
    previous = _scalar(connection, text(read), keep_open=external)
    _set(connection, write, value, keep_open=external)
    try:
        yield
    except BaseException:
        # In the caller's transaction the setting is undone by the rollback that must follow.
        if not connection.in_transaction():
            with suppress(DBAPIError):
                _set(connection, write, previous, keep_open=external)
        raise
    _set(connection, write, previous, keep_open=external or connection.in_transaction())


def _set(connection: Connection, statement: str, value: object, *, keep_open: bool) -> None:
    connection.execute(text(statement), {"value": value})
    if not keep_open:
        connection.commit()


def patient_autocommit_blocks(context: MigrationContext, timeout: timedelta | None) -> None:
    """Lift PostgreSQL's ``lock_timeout`` inside this context's autocommit blocks.

    What runs there (CREATE INDEX CONCURRENTLY) waits for other transactions without blocking anyone, and would leave an
    invalid index behind if it gave up.
    """
    if timeout is None or context.dialect.name != "postgresql":
        return
    original = context.autocommit_block

    @contextmanager
    def autocommit_block() -> Iterator[None]:
        with original():
            context.impl.execute(text("SET lock_timeout = 0"))
            yield
            context.impl.execute(text(f"SET lock_timeout = '{postgres_interval(timeout)}'"))

    context.autocommit_block = autocommit_block  # type: ignore[method-assign]


def postgres_interval(timeout: timedelta) -> str:
    """``timeout`` as PostgreSQL's settings spell it, in whole milliseconds and never 0 (which means: wait for ever)."""
    return f"{max(1, round(timeout.total_seconds() * 1000))}ms"
