"""One database for blocking code: its engine, made on first use, and its sessions."""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

from dotmac.database.context import current_context
from dotmac.database.engine._create import create_sync_engine, settings_from
from dotmac.database.engine._liveness import ping_blocking
from dotmac.database.engine._read_only import read_only
from dotmac.database.engine._sessions import (
    create_session_factory,
    placed_session,
    unknown_database,
    with_session,
)
from dotmac.database.tenancy import raise_quota_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from sqlalchemy.engine import Engine
    from sqlalchemy.orm import Session, sessionmaker

    from dotmac.database.engine._create import Source
    from dotmac.database.tenancy import BlockingPlacementResolver


class Database:
    """A database for blocking code. Nothing connects before the first session is used.

    Takes a URL, `DatabaseSettings` or nothing (the environment), and engine arguments. After a fork the child gets
    connections of its own. After `dispose` it can be used again, with a fresh pool.

    Example:
        >>> with Database("sqlite:///:memory:") as database, database.create_session() as session:
        ...     session.connection().exec_driver_sql("SELECT 1").scalar()
        1
    """

    def __init__(
        self,
        url: Source = None,
        *,
        tenants: BlockingPlacementResolver | None = None,
        databases: Mapping[str, Database] | None = None,
        **engine_arguments: Any,
    ) -> None:
        self.settings = settings_from(url)
        self._arguments = engine_arguments
        self._tenants = tenants
        # Not a copy: a database that is added later is found.
        self._databases: Mapping[str, Database] = {} if databases is None else databases
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
        if self._tenants is None:
            return with_session(self._current().factory)
        return self._placed(lambda database: database._current().factory())  # noqa: SLF001 - another one of us

    write_session = create_session

    def read_session(self) -> AbstractContextManager[Session]:
        """A session that is read-only at the server; on the replica where one is configured."""
        if self._tenants is None:
            return with_session(self._current().read_factory)
        return self._placed(lambda database: database._current().read_factory())  # noqa: SLF001 - another one of us

    @contextmanager
    def _placed(self, made: Callable[[Database], Session]) -> Iterator[Session]:
        """A session where the rows of the tenant in force live; without a tenant, here."""
        tenants, tenant_id = self._tenants, current_context().tenant_id
        if tenants is None or tenant_id is None:
            with with_session(lambda: made(self)) as session:
                yield session
            return
        placement = tenants.placement_of(tenant_id)
        database = self if placement.connection is None else self._named(placement.connection)
        admit = getattr(tenants, "admit", None)
        with ExitStack() as places:
            if admit is not None:
                places.enter_context(admit(placement))
            session = places.enter_context(with_session(lambda: placed_session(made(database), placement)))
            yield session

    def _named(self, name: str) -> Database:
        if name not in self._databases:
            raise unknown_database(name, self._databases)
        return self._databases[name]

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
        if database._tenants is not None:  # noqa: SLF001 - one thing in two pieces
            raise_quota_errors(self.engine)

    def dispose(self, *, close: bool = True) -> None:
        self.engine.dispose(close)
        if self.read_engine is not self.engine:
            self.read_engine.dispose(close)
