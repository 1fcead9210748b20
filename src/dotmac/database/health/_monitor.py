"""Look at a server through a connection of one's own: a full pool is no obstacle, and no slot of it is taken.

Each engine (and, for asyncio, each event loop) has one such connection at most, kept between checks and closed when
the engine is disposed. Checks take turns on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy import pool as pools
from sqlalchemy.util import greenlet_spawn

from dotmac.database.health._attempt import Attempt, Measurement, NoAnswerError
from dotmac.database.health._question import facts_from, statement_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Engine
    from sqlalchemy.pool import ConnectionPoolEntry, Pool, PoolProxiedConnection

    from dotmac.database.health._attempt import Limits

_ATTRIBUTE = "_dotmac_monitors"
_END_SECONDS = 0.1
_creation = threading.Lock()
_unfinished: set[asyncio.Task[Any]] = set()


async def probe_async(engine: Engine, limits: Limits) -> Measurement:
    """Connect and ask within ``limits``, whatever the server does. ``engine`` is an asyncio engine's ``sync_engine``.

    Raises:
        NoAnswerError: Time was up.
        Exception: What connecting or asking raised.
    """
    monitor = _monitors(engine).of_loop(asyncio.get_running_loop())
    attempt = Attempt(limits)

    async def ask() -> Measurement:
        async with monitor.async_turn:
            return await greenlet_spawn(monitor.ask, attempt)

    task = asyncio.ensure_future(ask())
    _unfinished.add(task)
    task.add_done_callback(_forget)
    try:
        while not task.done() and attempt.failure is None:
            await asyncio.wait({task}, timeout=attempt.patience())
            if not task.done():
                attempt.expire()
    except asyncio.CancelledError:
        attempt.give_up()
        await _end(task, attempt)
        raise
    if attempt.failure is not None:
        await _end(task, attempt)
        raise attempt.failure
    return task.result()


async def _end(task: asyncio.Task[Measurement], attempt: Attempt) -> None:
    """Let the asking side run out. It ends at once, or without anybody waiting for it."""
    if not attempt.can_be_cut:
        task.cancel()
    await asyncio.wait({task}, timeout=_END_SECONDS)


def _forget(task: asyncio.Task[Any]) -> None:
    _unfinished.discard(task)
    if not task.cancelled():
        task.exception()


def probe(engine: Engine, limits: Limits) -> Measurement:
    """Same as `probe_async`, blocking.

    A kept connection is asked in this thread, where a watch can cut it. Anything else runs in a thread of its own: a
    blocking connect can be left, but not interrupted. It ends with the driver's connect timeout; until then further
    checks wait for their turn, so there is one such thread.
    """
    monitor = _monitors(engine).of_threads()
    attempt = Attempt(limits)
    if engine.dialect.name == "sqlite":
        # No network to wait for, and its connections may be bound to this thread.
        return monitor.ask_in_turn(attempt, limits.connection)
    found_at_once = monitor.ask_kept_at_once(attempt)
    if found_at_once is not None:
        return found_at_once
    outcome: list[Measurement | BaseException] = []
    ended = threading.Event()

    def ask() -> None:
        try:
            outcome.append(monitor.ask_in_turn(attempt, limits.connection))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            outcome.append(error)
        finally:
            ended.set()

    run_in_thread(ask)
    try:
        while not ended.wait(attempt.patience()) and attempt.failure is None:
            attempt.expire()
    except BaseException:
        attempt.give_up()
        raise
    if attempt.failure is not None:
        ended.wait(_END_SECONDS)
        raise attempt.failure
    found = outcome[0]
    if isinstance(found, BaseException):
        raise found
    return found


def run_in_thread(work: Callable[[], None]) -> None:
    """Run ``work`` in this context, in a thread that does not keep the interpreter from exiting."""
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), name="dotmac-health", daemon=True).start()


class _Monitor:
    """The one connection, and the turns on it."""

    def __init__(self, engine: Engine) -> None:
        self.turn = threading.Lock()
        self.async_turn = asyncio.Lock()
        self.process = os.getpid()
        self._dialect_name = engine.dialect.name
        self._static = engine.pool if isinstance(engine.pool, pools.StaticPool) else None
        self._statement = statement_for(engine.dialect.name)
        self._pool = _side_pool(engine)
        self._kept: Any = None
        self._can_be_cut = False
        self._is_closed = False

    def ask_in_turn(self, attempt: Attempt, seconds: float) -> Measurement:
        """Same as `ask`, one thread at a time.

        Raises:
            NoAnswerError: The turn did not come within ``seconds``.
        """
        if not self.turn.acquire(timeout=seconds):
            raise NoAnswerError("connect", seconds)
        try:
            return self.ask(attempt)
        finally:
            self.turn.release()

    def ask(self, attempt: Attempt) -> Measurement:
        """One question, one answer; on a fresh connection where there is none kept, or the kept one is dead."""
        began = time.perf_counter()
        if self._static is not None:
            return self._ask_static(self._static, began)
        found = self.ask_kept(attempt)
        if found is not None:
            return found
        began = time.perf_counter()
        return self._ask_on(self._connect(attempt), attempt, began, is_kept=False)

    def ask_kept(self, attempt: Attempt) -> Measurement | None:
        """Ask on the kept connection; None where there is none, or it does not answer."""
        if self._kept is None:
            return None
        began = time.perf_counter()
        try:
            connection = self._connect(attempt)
            return self._ask_on(
                connection, attempt, began, is_kept=connection.driver_connection is self._kept
            )
        except Exception:  # noqa: BLE001 - whatever ails it, a fresh one tells more
            return None

    def ask_kept_at_once(self, attempt: Attempt) -> Measurement | None:
        """Same as `ask_kept`, in the caller's own thread; None also where it is in use, or could not be cut."""
        if self._kept is None or not self._can_be_cut or not self.turn.acquire(blocking=False):
            return None
        watch = threading.Timer(attempt.patience(), attempt.cut_kept)
        watch.daemon = True
        watch.start()
        try:
            found = self.ask_kept(attempt)
        finally:
            watch.cancel()
            self.turn.release()
        if found is None:
            attempt.connecting()
        return found

    def close(self) -> None:
        """Close the kept connection; one that is in use now is closed when its question is answered."""
        self._is_closed, self._kept = True, None
        if self.process == os.getpid():
            self._pool.dispose()

    def _connect(self, attempt: Attempt) -> PoolProxiedConnection:
        attempt.connecting()
        return self._pool.connect()

    def _ask_on(
        self, connection: PoolProxiedConnection, attempt: Attempt, began: float, *, is_kept: bool
    ) -> Measurement:
        try:
            attempt.asking(connection.driver_connection, is_kept=is_kept)
            self._can_be_cut = attempt.can_be_cut
            connected = time.perf_counter()
            row = self._answer(connection)
            answered = time.perf_counter()
            self._kept = connection.driver_connection
        except BaseException:
            self._kept = None
            attempt.asked()
            connection.invalidate()
            raise
        attempt.asked()
        connection.close()
        if self._is_closed:
            self._pool.dispose()
        return Measurement(connected - began, answered - connected, facts_from(self._dialect_name, row))

    def _ask_static(self, static: pools.StaticPool, began: float) -> Measurement:
        """Ask on the connection that everybody shares. Checking it in would roll back whoever is at work on it."""
        connection = static.connection.dbapi_connection
        connected = time.perf_counter()
        row = self._answer(connection)
        return Measurement(
            connected - began, time.perf_counter() - connected, facts_from(self._dialect_name, row)
        )

    def _answer(self, connection: Any) -> Any:
        cursor = connection.cursor()
        try:
            cursor.execute(self._statement)
            return cursor.fetchone()
        finally:
            cursor.close()


class _Monitors:
    """The monitors of one engine: one for threads, one for each event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = weakref.ref(engine)
        self._known: dict[object, _Monitor] = {}
        self._lock = threading.Lock()
        event.listen(engine, "engine_disposed", self._close)

    def of_threads(self) -> _Monitor:
        return self._get(None)

    def of_loop(self, loop: asyncio.AbstractEventLoop) -> _Monitor:
        with self._lock:
            for ended in [known for known in self._known if known is not loop and _is_closed(known)]:
                del self._known[ended]
        return self._get(loop)

    def _get(self, key: object) -> _Monitor:
        with self._lock:
            known = self._known.get(key)
            # A forked child leaves the parent's connection alone.
            if known is None or known.process != os.getpid():
                engine = self._engine()
                if engine is None:
                    raise ReferenceError("The engine is gone.")
                known = self._known[key] = _Monitor(engine)
            return known

    def _close(self, _engine: Engine) -> None:
        with self._lock:
            known, self._known = self._known, {}
        for monitor in known.values():
            monitor.close()


def _is_closed(loop: object) -> bool:
    return isinstance(loop, asyncio.AbstractEventLoop) and loop.is_closed()


def _monitors(engine: Engine) -> _Monitors:
    # An engine with execution options is a view of another one, whose pool it shares.
    engine = getattr(engine, "_proxied", engine)
    attributes = vars(engine)
    if _ATTRIBUTE not in attributes:
        with _creation:
            if _ATTRIBUTE not in attributes:
                attributes[_ATTRIBUTE] = _Monitors(engine)
    monitors: _Monitors = attributes[_ATTRIBUTE]
    return monitors


def _side_pool(engine: Engine) -> Pool:
    """A pool of one connection, opened as ``engine`` opens its own.

    It keeps none where the engine keeps none, and none of blocking SQLite, which opens in no time and may not let
    another thread use its connection. Listeners of the engine's checkouts are left out: they ping, count or set up
    work, and here the question is the ping.
    """
    creator = engine.pool._creator  # noqa: SLF001 - the only way to connect as the engine does
    side: Pool
    if isinstance(engine.pool, pools.QueuePool) and (
        engine.dialect.is_async or engine.dialect.name != "sqlite"
    ):
        kind = pools.AsyncAdaptedQueuePool if engine.dialect.is_async else pools.QueuePool
        side = kind(creator, pool_size=1, max_overflow=0, timeout=1, dialect=engine.dialect)
    else:
        side = pools.NullPool(creator, dialect=engine.dialect)
    weak, dialect = weakref.ref(engine), engine.dialect

    @event.listens_for(side, "connect")
    def set_up(connection: Any, entry: ConnectionPoolEntry) -> None:
        owner = weak()
        if owner is not None:
            owner.pool.dispatch.connect(connection, entry)
        # Without a transaction around it, a question is one round trip; a dialect without autocommit has one more.
        with contextlib.suppress(NotImplementedError):
            dialect.do_rollback(connection)
            dialect.set_isolation_level(connection, "AUTOCOMMIT")

    return side
