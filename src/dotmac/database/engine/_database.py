"""One database for blocking code: its engine, made on first use, and its sessions."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from dotmac.database.engine._create import create_sync_engine, settings_from
from dotmac.database.engine._liveness import ping_blocking
from dotmac.database.engine._read_only import read_only
from dotmac.database.engine._sessions import create_session_factory, with_session

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sqlalchemy.engine import Engine
    from sqlalchemy.orm import Session, sessionmaker

    from dotmac.database.engine._create import Source


class Database:
    """A database for blocking code. Nothing connects before the first session is used.

    Takes a URL, `DatabaseSettings` or nothing (the environment), and engine arguments. After a fork the child gets
    connections of its own. After `dispose` it can be used again, with a fresh pool.

    Example:
        >>> with Database("sqlite:///:memory:") as database, database.create_session() as session:
        ...     session.connection().exec_driver_sql("SELECT 1").scalar()
        1
    """

    def __init__(self, url: Source = None, **engine_arguments: Any) -> None:
        self.settings = settings_from(url)
        self._arguments = engine_arguments
        self._lock = threading.Lock()
        self._parts: _Parts | None = None

    def __repr__(self) -> str:
        return f"Database({self.settings.address!r})"

    @property
    def engine(self) -> Engine:
        """The engine of this process, for the primary."""
        return self._current().engine

    @property
    def session_factory(self) -> sessionmaker[Session]:
        """Makes sessions that the caller commits and closes."""
        return self._current().factory

    def create_session(self) -> AbstractContextManager[Session]:
        """A session on the primary that commits when the block ends well and rolls back when it does not."""
        return with_session(self._current().factory)

    write_session = create_session

    def read_session(self) -> AbstractContextManager[Session]:
        """A session that is read-only at the server; on the replica where one is configured."""
        return with_session(self._current().read_factory)

    def health(self) -> float:
        """Seconds one new round trip to the primary takes; raises what connecting or asking raises.

        Raises:
            TimeoutError: No answer within 5 s on a connection that is open.
        """
        started = time.perf_counter()
        with self.engine.connect() as connection:
            ping_blocking(connection)
        return time.perf_counter() - started

    def check(self) -> bool:
        """True when the primary answers."""
        try:
            self.health()
        except Exception:  # noqa: BLE001 - whatever the reason, it does not answer
            return False
        return True

    def dispose(self) -> None:
        """Close every pooled connection. The next use starts a fresh pool."""
        with self._lock:
            parts, self._parts = self._parts, None
        if parts is not None and parts.process == os.getpid():
            parts.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.dispose()

    def _current(self) -> _Parts:
        parts = self._parts
        if parts is not None and parts.process == os.getpid():
            return parts
        with self._lock:
            if self._parts is not None and self._parts.process != os.getpid():
                # Forked: those connections are the parent's. They are forgotten, not closed.
                self._parts.dispose(close=False)
                self._parts = None
            if self._parts is None:
                self._parts = _Parts(self)
            return self._parts


class _Parts:
    """What one process uses of a database."""

    def __init__(self, database: Database) -> None:
        self.process = os.getpid()
        settings, arguments = database.settings, database._arguments  # noqa: SLF001 - one thing in two pieces
        self.engine = create_sync_engine(settings, **arguments)
        replica = settings.for_reading()
        self.read_engine = self.engine if replica is settings else create_sync_engine(replica, **arguments)
        self.factory = create_session_factory(self.engine)
        self.read_factory = create_session_factory(read_only(self.read_engine))

    def dispose(self, *, close: bool = True) -> None:
        self.engine.dispose(close)
        if self.read_engine is not self.engine:
            self.read_engine.dispose(close)
