"""An advisory lock of PostgreSQL: of a transaction of the caller's, or of a connection that is kept for it alone."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

from sqlalchemy import exc, text

from dotmac.database.coordination._lock import Lock, logger, to_the_end
from dotmac.database.coordination._names import in_seconds, owner_of
from dotmac.database.coordination._pg_keys import advisory_key
from dotmac.database.coordination._watch import Watch
from dotmac.database.engine import get_async_db_connection
from dotmac.database.errors import ConfigurationError, LockUnavailableError
from dotmac.database.tenancy._binding import bound_context
from dotmac.database.transactions import classify

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

    from dotmac.database.coordination._names import Seconds
    from dotmac.database.engine import AsyncDatabase

    Level = Literal["transaction", "session"]

_ANSWER_SECONDS: Final = 5.0
_LOCK_NOT_AVAILABLE: Final = "55P03"
_LONGEST_WAIT_MS: Final = 2**31 - 1
# Also ends the last statement's portal, which would keep its snapshot, and vacuum from its work.
_QUIET: Final = "SET LOCAL idle_in_transaction_session_timeout = 0"
# A server that crashes gives numbers again that its log does not hold. The message has the commit wait for the log; else it
# would not, for a transaction that wrote nothing.
_DRAW: Final = """
SELECT pg_current_xact_id()::text::bigint
FROM pg_logical_emit_message(true, 'dotmac.lock', ''),
     set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true)
"""
_TAKE: Final = {"transaction": "pg_advisory_xact_lock", "session": "pg_advisory_lock"}
_TRY: Final = {"transaction": "pg_try_advisory_xact_lock", "session": "pg_try_advisory_lock"}


class PgAdvisoryLock(Lock):
    """An advisory lock of the database. Without ``wait`` it is taken at once or not at all.

    With a ``session`` or ``connection`` the lock belongs to its transaction: it ends with COMMIT or ROLLBACK, not with
    the block, and what that transaction writes needs no other protection. Otherwise a connection of its own holds it for
    the block, in an idle transaction; `lost` is set when that connection ends.

    Args:
        key: A number, which counts for the whole database, or a name, which belongs to the tenant that is bound.
        wait: How long to wait; ``math.inf`` for as long as it takes. The server ends the wait (``lock_timeout``).
        session: The session whose transaction holds the lock.
        connection: The connection whose transaction holds it.
        engine: An asyncio engine or AsyncDatabase to take the lock's own connection from; the process-wide one if None.
        level: ``"session"`` for a lock of the server's session instead of a transaction, so that none is open
            meanwhile. Refused behind a connection pooler.
        behind_session_pooler: The pooler in between gives each client a server session of its own (PgBouncer's
            ``pool_mode = session``), so ``level="session"`` may be used.
        fenced: Draw a fencing token, in one short transaction more.
        heartbeat: How often the lock's own connection is asked whether it lives.
        cancel_when_lost: Cancel the block when the lock is lost; it then ends with LockLostError.
        shared: One name for all tenants.

    Example:
        >>> async def rebuild() -> bool:
        ...     async with PgAdvisoryLock("rebuild:statistics", wait=5) as lock:
        ...         return lock.acquired

    Raises:
        LockUnavailableError: On entering: no connection, so that nobody knows who holds the lock.
        LockLostError: On leaving a block without an error: the connection ended before the block did.
        ConfigurationError: The database is not PostgreSQL, or cannot hold such a lock.
    """

    def __init__(
        self,
        key: int | str,
        *,
        wait: Seconds = 0,
        session: AsyncSession | None = None,
        connection: AsyncConnection | None = None,
        engine: AsyncEngine | AsyncDatabase | None = None,
        level: Level = "transaction",
        behind_session_pooler: bool = False,
        fenced: bool = False,
        heartbeat: Seconds = 5,
        cancel_when_lost: bool = False,
        shared: bool = False,
    ) -> None:
        super().__init__(wait=wait, cancel_when_lost=cancel_when_lost)
        if sum(given is not None for given in (session, connection, engine)) > 1:
            raise TypeError("Pass one of session, connection and engine: the lock has one place.")
        if level not in _TRY:
            raise ValueError(f"level is 'transaction' or 'session', not {level!r}.")
        is_guest = session is not None or connection is not None
        if is_guest and level == "session":
            raise TypeError(
                "A lock of the server's session needs a connection of its own: pass engine=…, or nothing."
            )
        if is_guest and fenced:
            raise TypeError(
                "A lock in your transaction needs no fencing token: it ends with that transaction, and so do its writes."
            )
        advisory_key(key)
        self._key = key
        self._session, self._connection, self._engine = session, connection, engine
        self._level: Level = level
        self._behind_session_pooler = behind_session_pooler
        self._fenced = fenced
        self._heartbeat = in_seconds(heartbeat, "heartbeat", minimum=0.01)
        self._shared = shared
        self._own: AsyncConnection | None = None
        self._driver: Any = None
        self._watch: Watch | None = None

    def __repr__(self) -> str:
        return f"PgAdvisoryLock({self._key!r})"

    def _label(self) -> str:
        return f"The advisory lock {self._key!r}"

    def _without_a_fence(self) -> str:
        if not self.acquired:
            return super()._without_a_fence()
        return "draws no fencing token unless asked: say fenced=True, or pass session=…, which makes one unnecessary."

    async def _acquire(self) -> bool:
        context = None if self._session is None else bound_context(self._session)
        self._number = advisory_key(self._key, tenant=owner_of(shared=self._shared, context=context))
        if self._session is not None:
            return await self._acquire_in(await self._session.connection())
        if self._connection is not None:
            return await self._acquire_in(self._connection)
        # In a task of its own: cancelled or not, the connection is either returned without the lock or closed.
        opening = asyncio.ensure_future(self._acquire_on_its_own())
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.cancel()
            await asyncio.wait({opening})
            if not opening.cancelled() and opening.exception() is None and opening.result():
                await to_the_end(self._release())
            raise

    async def _acquire_in(self, connection: AsyncConnection) -> bool:
        """Within a transaction of the caller's, which a timeout must not end."""
        _require_postgresql(connection)
        _require_transaction(connection)
        if await self._tried(connection):
            return True
        if not self._wait:
            return False
        previous = await connection.scalar(text("SELECT current_setting('lock_timeout')"))
        try:
            async with connection.begin_nested():
                await self._take(connection)
                # A savepoint that is released keeps its SET LOCAL.
                await connection.execute(
                    text("SELECT set_config('lock_timeout', :value, true)"), {"value": previous}
                )
        except exc.DBAPIError as error:
            if _is_timeout(error):
                return False
            raise
        return True

    async def _acquire_on_its_own(self) -> bool:
        engine = self._engine_to_use()
        connection: AsyncConnection | None = None
        try:
            connection = await engine.connect()
            _require_postgresql(connection)
            # An idle transaction of another level would keep its snapshot, and vacuum from its work.
            await connection.execution_options(isolation_level="READ COMMITTED")
            async with asyncio.timeout(None if math.isinf(self._wait) else self._wait + _ANSWER_SECONDS):
                if not await self._hold(connection, engine):
                    await connection.close()
                    return False
        except BaseException as error:
            if connection is not None:
                await to_the_end(_discard(connection))
            if isinstance(error, exc.TimeoutError | TimeoutError | OSError) or (
                isinstance(error, Exception) and classify(error).connectivity
            ):
                raise self._unavailable(error) from error
            raise
        self._own = connection
        self._listen()
        self._watch = Watch(self._heartbeat, self._look_after)
        return True

    def _engine_to_use(self) -> AsyncEngine:
        given: Any = get_async_db_connection() if self._engine is None else self._engine
        engine: AsyncEngine = given if hasattr(given, "sync_engine") else getattr(given, "engine", given)
        if not hasattr(engine, "sync_engine"):
            raise TypeError(f"engine is an AsyncEngine or an AsyncDatabase, not {type(given).__name__}.")
        return engine

    async def _hold(self, connection: AsyncConnection, engine: AsyncEngine) -> bool:
        if self._level == "session" and not self._behind_session_pooler:
            await _refuse_pooler(connection)
        if not await self._tried(connection):
            if not self._wait:
                return False
            try:
                await self._take(connection)
            except exc.DBAPIError as error:
                if _is_timeout(error):
                    return False
                raise
        if self._level == "session":
            await connection.commit()
        else:
            await connection.exec_driver_sql(_QUIET)
        if self._fenced:
            await self._draw_fence(connection, engine)
        return True

    async def _tried(self, connection: AsyncConnection) -> bool:
        statement = text(f"SELECT {_TRY[self._level]}(:number)")
        return bool(await connection.scalar(statement, {"number": self._number}))

    async def _take(self, connection: AsyncConnection) -> None:
        """Wait at the server, which alone can give up without having the lock: a cancelled client may have got it."""
        wait = 0 if math.isinf(self._wait) else min(max(1, math.ceil(self._wait * 1000)), _LONGEST_WAIT_MS)
        await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{wait}ms'")
        await connection.execute(text(f"SELECT {_TAKE[self._level]}(:number)"), {"number": self._number})

    async def _draw_fence(self, connection: AsyncConnection, engine: AsyncEngine) -> None:
        """A new transaction's number, drawn while the lock is held: the next holder draws a higher one.

        In a transaction of its own, because one that stays open would keep vacuum from its work.
        """
        if self._level == "session":
            self._fence = await connection.scalar(text(_DRAW))
            await connection.commit()
            return
        async with engine.connect() as other:
            fence = await other.scalar(text(_DRAW))
            await other.commit()
            self._fence = fence

    def _listen(self) -> None:
        """Have asyncpg tell at once that the connection ended; with other drivers the next heartbeat finds out."""
        sync = self._own.sync_connection if self._own is not None else None
        self._driver = None if sync is None else sync.connection.driver_connection
        if hasattr(self._driver, "add_termination_listener"):
            self._driver.add_termination_listener(self._ended)

    def _ended(self, _driver: object) -> None:
        self._lose("the connection that held it ended")

    async def _look_after(self) -> bool:
        assert self._own is not None  # noqa: S101 - there is a watch only with a connection of one's own
        try:
            async with asyncio.timeout(max(self._heartbeat, _ANSWER_SECONDS)):
                await self._own.exec_driver_sql(_QUIET)
                if self._level == "session":
                    await self._own.commit()
        except Exception as error:  # noqa: BLE001 - whatever the reason, the server may have ended the session
            self._lose(f"the connection that held it does not answer ({type(error).__name__})")
            return False
        return not self.lost.is_set()

    async def _release(self) -> None:
        if self._own is not None:
            await to_the_end(self._release_own())

    async def _release_own(self) -> None:
        connection, self._own = self._own, None
        watch, self._watch = self._watch, None
        assert connection is not None  # noqa: S101 - asked before
        if watch is not None:
            await watch.stop(cut_short=False)
        driver, self._driver = self._driver, None
        if hasattr(driver, "remove_termination_listener"):
            driver.remove_termination_listener(self._ended)
        if self.lost.is_set():
            await _discard(connection)
            return
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._give_back(connection)
        except Exception as error:  # noqa: BLE001 - back to the pool unlocked, or not at all
            await _discard(connection)
            self._lose(f"the connection that held it failed ({type(error).__name__})")

    async def _give_back(self, connection: AsyncConnection) -> None:
        if self._level == "session":
            statement = text("SELECT pg_advisory_unlock(:number)")
            if not await connection.scalar(statement, {"number": self._number}):
                self._lose("the server's session did not have it any more")
                await _discard(connection)
                return
            await connection.commit()
        else:
            # Asked, so that a connection that ended unnoticed does not pass for a lock that was held to the end.
            await connection.execute(text("SELECT 1"))
            await connection.rollback()
        await connection.close()

    def _unavailable(self, error: BaseException) -> LockUnavailableError:
        return LockUnavailableError(
            f"{self._label()} was not acquired: PostgreSQL did not grant or refuse it ({type(error).__name__}), so nobody "
            f"knows who holds it. Do not go on as if it were held; try again when the server answers."
        )


async def _discard(connection: AsyncConnection) -> None:
    """Close the server connection, which ends its locks, instead of pooling it."""
    with contextlib.suppress(Exception):
        await connection.invalidate()
    try:
        await connection.close()
    except Exception as error:  # noqa: BLE001 - it is closed one way or another
        logger.debug("Closing a lock's connection failed.", exc_info=error)


def _is_timeout(error: exc.DBAPIError) -> bool:
    return classify(error).code == _LOCK_NOT_AVAILABLE


def _require_postgresql(connection: AsyncConnection) -> None:
    if connection.dialect.name != "postgresql":
        raise ConfigurationError(
            f"Advisory locks are PostgreSQL's, and this database is {connection.dialect.name}. Use RedisLock."
        )


def _require_transaction(connection: AsyncConnection) -> None:
    sync = connection.sync_connection
    if sync is None:
        raise ConfigurationError(
            "The connection is not open: enter it, `async with engine.connect() as …`, first."
        )
    if sync._is_autocommit_isolation():  # noqa: SLF001 - the public way asks the server
        raise ConfigurationError(
            "This connection is in AUTOCOMMIT: the lock would end with the statement that takes it. Use a transaction, or "
            "leave out session and connection."
        )


async def _refuse_pooler(connection: AsyncConnection) -> None:
    """A pooler answers a connect with a process number of its own; the server's backend knows the real one."""
    raw: Any = (await connection.get_raw_connection()).driver_connection
    told = _told_backend(raw)
    actual = await connection.scalar(text("SELECT pg_backend_pid()"))
    await connection.rollback()
    if told != actual:
        _refuse()


def _told_backend(raw: Any) -> int | None:
    if hasattr(raw, "get_server_pid"):
        return int(raw.get_server_pid())
    if hasattr(raw, "info"):
        return int(raw.info.backend_pid)
    return None


def _refuse() -> NoReturn:
    raise ConfigurationError(
        "A connection pooler stands between this process and PostgreSQL: one that pools transactions would hand the session "
        "that holds the lock to somebody else. Use level='transaction', connect to the server directly, or, where the "
        "pooler keeps a session for each client, say behind_session_pooler=True."
    )
