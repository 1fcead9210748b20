"""Transactions as blocks: `DatabaseTransaction` for blocking sessions and its asyncio twin, over one core."""

from __future__ import annotations

import asyncio
import inspect
import time
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from dotmac.database.errors import CommitOutcomeUnknownError, TransactionStateError
from dotmac.database.transactions._core import (
    TransactionCore,
    TransactionOptions,
    enclosing,
    is_begun_elsewhere,
)
from dotmac.database.transactions._hooks import run_hooks, run_hooks_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

_FIRST_POLL_SECONDS = 0.05
_LONGEST_POLL_SECONDS = 1.0


class _Transaction:
    """What both colours share: the session behind it, and hooks."""

    def __init__(self, session: Any, core: TransactionCore | None) -> None:
        self.session = session
        self._core = core

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    @property
    def is_savepoint(self) -> bool:
        """True if somebody else's transaction was begun already: then they commit."""
        return self._core is None

    def _hooks_of_root(self) -> Any:
        if self._core is None:
            raise TransactionStateError(
                "The transaction around this savepoint was begun by session.begin(), so its COMMIT is not seen from "
                "here. Begin it with DatabaseTransaction too, and register the hook there."
            )
        return self._core.hooks


class DatabaseTransaction(_Transaction):
    """A transaction on a session; `sync_transaction` and `async_transaction` open one.

    It can be used wherever its session can: what it has no name for goes to the session.

    Example:
        >>> from dotmac.database import Database
        >>> with Database("sqlite:///:memory:") as database, database.session_factory() as session:
        ...     with DatabaseTransaction.sync_transaction(session) as tx:
        ...         tx.after_commit(lambda: print("committed"))
        committed
    """

    session: Session

    @staticmethod
    def sync_transaction(
        session: Session,
        *,
        isolation_level: str | None = None,
        read_only: bool = False,
        track_outcome: bool = False,
        resolve_seconds: float = 10.0,
    ) -> AbstractContextManager[DatabaseTransaction]:
        """A block that commits at its end and rolls back after an error.

        In a transaction of ours on this session, or one begun by ``session.begin()``, it is a savepoint. One that
        SQLAlchemy began by itself, at a first query, is taken over and committed. See `TransactionOptions` for the
        arguments.

        Raises:
            TransactionStateError: The block committed by itself, or swallowed an error that broke the transaction.
            CommitFailedError: The server refused COMMIT: nothing is written.
            CommitOutcomeUnknownError: The connection was lost after COMMIT was sent.
        """
        return _sync_block(
            session,
            TransactionOptions(
                isolation_level=isolation_level,
                read_only=read_only,
                track_outcome=track_outcome,
                resolve_seconds=resolve_seconds,
            ),
        )

    @staticmethod
    def async_transaction(
        session: AsyncSession,
        *,
        isolation_level: str | None = None,
        read_only: bool = False,
        track_outcome: bool = False,
        resolve_seconds: float = 10.0,
    ) -> AbstractAsyncContextManager[AsyncDatabaseTransaction]:
        """Same as `DatabaseTransaction.sync_transaction`, for asyncio. A cancellation rolls back too."""
        return _async_block(
            session,
            TransactionOptions(
                isolation_level=isolation_level,
                read_only=read_only,
                track_outcome=track_outcome,
                resolve_seconds=resolve_seconds,
            ),
        )

    def after_commit(self, hook: Callable[[], object]) -> None:
        """Run ``hook`` once the server acknowledged COMMIT of the outermost transaction.

        Hooks run in order, on the session's thread, when the session is free again. One that fails is logged and
        undoes nothing. A hook registered in a savepoint that is rolled back does not run; nor does any when the
        outcome of COMMIT is unknown.

        Raises:
            TransactionStateError: The outermost transaction was not begun by `DatabaseTransaction`.
            TypeError: ``hook`` is a coroutine function.
        """
        _refuse_coroutine(hook)
        self._hooks_of_root().after_commit.append(hook)

    def after_rollback(self, hook: Callable[[], object]) -> None:
        """Run ``hook`` once the transaction, or the savepoint it was registered in, is rolled back.

        Otherwise as `after_commit`.
        """
        _refuse_coroutine(hook)
        self._hooks_of_root().after_rollback.append(hook)

    @contextmanager
    def savepoint(self) -> Iterator[DatabaseTransaction]:
        """A block that an error undoes on its own; catch the error outside of it and go on."""
        hooks = None if self._core is None else self._core.hooks
        mark = None if hooks is None else hooks.mark()
        try:
            with self.session.begin_nested():
                yield DatabaseTransaction(self.session, self._core)
        except BaseException:
            if hooks is not None and mark is not None:
                run_hooks(hooks.undo(mark))
            raise


class AsyncDatabaseTransaction(_Transaction):
    """Same as `DatabaseTransaction`, for asyncio; hooks may be coroutine functions."""

    session: AsyncSession

    def after_commit(self, hook: Callable[[], Awaitable[object] | object]) -> None:
        """See `DatabaseTransaction.after_commit`; what ``hook`` returns is awaited."""
        self._hooks_of_root().after_commit.append(hook)

    def after_rollback(self, hook: Callable[[], Awaitable[object] | object]) -> None:
        """See `DatabaseTransaction.after_rollback`; what ``hook`` returns is awaited."""
        self._hooks_of_root().after_rollback.append(hook)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[AsyncDatabaseTransaction]:
        """See `DatabaseTransaction.savepoint`."""
        hooks = None if self._core is None else self._core.hooks
        mark = None if hooks is None else hooks.mark()
        try:
            async with self.session.begin_nested():
                yield AsyncDatabaseTransaction(self.session, self._core)
        except BaseException:
            if hooks is not None and mark is not None:
                await run_hooks_async(hooks.undo(mark))
            raise


def _refuse_coroutine(hook: object) -> None:
    if inspect.iscoroutinefunction(hook):
        raise TypeError(
            "A hook of a blocking transaction cannot be a coroutine function: nobody would await it."
        )


@contextmanager
def _sync_block(
    session: Session, options: TransactionOptions, *, core: TransactionCore | None = None
) -> Iterator[DatabaseTransaction]:
    if hasattr(session, "sync_session"):
        raise TypeError("This is an AsyncSession: use async_transaction.")
    if _is_inner(session, options):
        with DatabaseTransaction(session, enclosing(session)).savepoint() as inner:
            yield inner
        return
    core = core or TransactionCore(session, options)
    core.begin()
    try:
        yield DatabaseTransaction(session, core)
    except BaseException as error:
        core.roll_back(error)
        run_hooks(core.hooks.after_rollback)
        raise
    _commit(core)


def _commit(core: TransactionCore) -> None:
    try:
        core.commit()
    except CommitOutcomeUnknownError as unknown:
        if (error := _looked_up(core, unknown)) is not None:
            if error is not unknown:
                run_hooks(core.hooks.after_rollback)
            raise error from unknown.__cause__
    except BaseException:
        run_hooks(_due_after_failure(core))
        raise
    run_hooks(core.hooks.after_commit)


def _looked_up(core: TransactionCore, unknown: CommitOutcomeUnknownError) -> Exception | None:
    """What to raise instead of ``unknown`` once the server was asked; None if it committed."""
    if unknown.transaction is None:
        return unknown
    deadline, pause = time.monotonic() + core.options.resolve_seconds, _FIRST_POLL_SECONDS
    while (outcome := core.ask_outcome(unknown.transaction)) is None and time.monotonic() + pause < deadline:
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_POLL_SECONDS)
    return core.resolved_error(unknown, outcome)


@asynccontextmanager
async def _async_block(
    session: AsyncSession, options: TransactionOptions, *, core: TransactionCore | None = None
) -> AsyncIterator[AsyncDatabaseTransaction]:
    if not hasattr(session, "sync_session"):
        raise TypeError("This is a blocking Session: use sync_transaction.")
    if _is_inner(session.sync_session, options):
        async with AsyncDatabaseTransaction(session, enclosing(session.sync_session)).savepoint() as inner:
            yield inner
        return
    core = core or TransactionCore(session.sync_session, options)
    if options.shapes_beginning:
        await session.run_sync(lambda _: core.begin())
    else:
        core.begin()  # sends nothing
    try:
        yield AsyncDatabaseTransaction(session, core)
    except BaseException as error:
        await _to_the_end(session, partial(_roll_back, core, error))
        await run_hooks_async(core.hooks.after_rollback)
        raise
    await _commit_async(session, core)


async def _commit_async(session: AsyncSession, core: TransactionCore) -> None:
    try:
        await session.run_sync(lambda _: core.commit())
    except CommitOutcomeUnknownError as unknown:
        if (error := await _looked_up_async(session, core, unknown)) is not None:
            if error is not unknown:
                await run_hooks_async(core.hooks.after_rollback)
            raise error from unknown.__cause__
    except BaseException:
        await run_hooks_async(_due_after_failure(core))
        raise
    await run_hooks_async(core.hooks.after_commit)


async def _looked_up_async(
    session: AsyncSession, core: TransactionCore, unknown: CommitOutcomeUnknownError
) -> Exception | None:
    if unknown.transaction is None:
        return unknown
    outcome, pause = None, _FIRST_POLL_SECONDS
    try:
        async with asyncio.timeout(core.options.resolve_seconds):
            while (
                outcome := await session.run_sync(lambda _: core.ask_outcome(unknown.transaction))
            ) is None:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_POLL_SECONDS)
    except TimeoutError:
        pass
    return core.resolved_error(unknown, outcome)


def _due_after_failure(core: TransactionCore) -> list[Callable[[], Any]]:
    """A failed COMMIT is a rollback, unless it was interrupted (unknown), or came through before a listener failed."""
    if core.has_committed:
        return core.hooks.after_commit
    return [] if core.is_in_doubt else core.hooks.after_rollback


def _is_inner(session: Session, options: TransactionOptions) -> bool:
    inner = enclosing(session) is not None or is_begun_elsewhere(session)
    if inner and (options.shapes_beginning or options.track_outcome):
        raise TransactionStateError(
            "isolation_level, read_only and track_outcome belong to the outermost transaction; this session is in "
            "one already."
        )
    return inner


def _roll_back(core: TransactionCore, error: BaseException, _session: object) -> None:
    core.roll_back(error)


async def _to_the_end(session: AsyncSession, work: Callable[[Any], object]) -> None:
    """Run ``work`` so that a second cancellation does not cut it short."""
    await asyncio.shield(asyncio.ensure_future(session.run_sync(work)))
