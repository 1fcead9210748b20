"""The retry loop: a unit of work is tried whole, on a fresh session, until it is committed or not worth another try."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from contextlib import nullcontext
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, TypeVar

from dotmac.database.errors import TransactionStateError
from dotmac.database.transactions._attempts import Attempts
from dotmac.database.transactions._classification import ErrorKind, classify
from dotmac.database.transactions._core import TransactionCore, TransactionOptions
from dotmac.database.transactions._guard import CommitWitness, witness
from dotmac.database.transactions._provenance import with_contexts
from dotmac.database.transactions._sources import fresh_async_session, fresh_session
from dotmac.database.transactions._transaction import _async_block, _sync_block

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from dotmac.database.transactions._breaker import CircuitBreaker
    from dotmac.database.transactions._classification import Verdict
    from dotmac.database.transactions._policy import RetryPolicy
    from dotmac.database.transactions._sources import Source

Result = TypeVar("Result")

_PLAIN = TransactionOptions()
_NO_BREAKER: Any = nullcontext()
_running: ContextVar[tuple[tuple[object, object], ...]] = ContextVar("dotmac_database_units", default=())


class Unit:
    """One unit of work: how it is tried, and what is known of its last attempt.

    Args:
        policy: How often and how soon.
        options: How its transactions begin and end.
        source: Where fresh sessions come from.
        session: Used for every attempt instead; reset between them by the rollback.
        breaker: Each attempt goes through it.

    Raises:
        TransactionStateError: ``session`` is in a transaction already.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        options: TransactionOptions = _PLAIN,
        source: Source | None = None,
        session: Session | AsyncSession | None = None,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        if session is not None and session.in_transaction():
            raise TransactionStateError(
                "This session is in a transaction already, and what happened in it cannot be tried again. Commit or "
                "roll back first, or leave the session out: then each attempt gets a fresh one."
            )
        self._options = options
        self._source = source
        self._session = session
        self._breaker = breaker or _NO_BREAKER
        self._core: TransactionCore | None = None
        self._attempts = Attempts(policy, objection=self._objection)

    @property
    def has_session(self) -> bool:
        """True if every attempt runs on the caller's session."""
        return self._session is not None

    def run(self, function: Callable[[Session], Result]) -> Result:
        """The result of ``function(session)`` once it is committed."""
        with _Alone(self._session or self._source):
            while True:
                try:
                    return self._attempt(function)
                except Exception as error:
                    pause = self._pause_after(error)
                    if pause is None:
                        raise
                time.sleep(pause)

    async def run_async(self, function: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
        """Same as `run`, for asyncio."""
        with _Alone(self._session or self._source):
            while True:
                try:
                    return await self._attempt_async(function)
                except Exception as error:
                    pause = self._pause_after(error)
                    if pause is None:
                        raise
                await asyncio.sleep(pause)

    def _attempt(self, function: Callable[[Session], Result]) -> Result:
        with (
            self._breaker,
            fresh_session(self._source) if self._session is None else self._given() as session,
        ):
            self._core = TransactionCore(session, self._options)
            with _sync_block(session, self._options, core=self._core):
                result = function(session)
                if inspect.isawaitable(result):
                    _close(result)
                    raise TypeError("This is an async function: use the async twin, and await it.")
        return result

    async def _attempt_async(self, function: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
        with self._breaker:
            # A session is a context manager itself; wrapping it in another costs a hundredth of a transaction.
            async with (
                fresh_async_session(self._source) if self._session is None else self._given() as session
            ):
                self._core = TransactionCore(session.sync_session, self._options)
                async with _async_block(session, self._options, core=self._core):
                    pending = function(session)
                    if not inspect.isawaitable(pending):
                        raise TypeError("This function is not async: use the blocking twin.")
                    return await pending
        raise AssertionError  # the block above returns or raises

    def _given(self) -> Any:
        return nullcontext(self._session)

    def _pause_after(self, error: Exception) -> float | None:
        if self._core is not None:
            self._attempts.bind = self._core.bind
        return self._attempts.pause_after(error)

    def _objection(self, verdict: Verdict) -> str | None:
        if self._core is not None and self._core.has_committed:
            return "it was committed; what failed came after"
        if self._core is not None and self._core.is_in_doubt:
            return "it may have been committed"
        if verdict.read_only_node and self._core is not None and self._core.is_read_only:
            return "only reading was asked for, so no other server would take the write either"
        return None


class LooseUnit:
    """A unit of work that manages its own sessions, so that what it has done already cannot be seen for sure.

    Unless it is idempotent, only errors are retried that leave nothing behind, and none once a session committed.
    """

    def __init__(self, policy: RetryPolicy, *, idempotent: bool) -> None:
        self._idempotent = idempotent
        self._witness = CommitWitness()
        self._attempts = Attempts(policy, objection=self._objection)

    def run(self, function: Callable[[], Result]) -> Result:
        """The result of ``function()``."""
        while True:
            token = witness.set(self._witness)
            try:
                return function()
            except Exception as error:
                self._look_behind(error)
                pause = self._attempts.pause_after(error)
                if pause is None:
                    raise
            finally:
                witness.reset(token)
            time.sleep(pause)

    async def run_async(self, function: Callable[[], Awaitable[Result]]) -> Result:
        """Same as `run`, for asyncio."""
        while True:
            token = witness.set(self._witness)
            try:
                return await function()
            except Exception as error:
                self._look_behind(error)
                pause = self._attempts.pause_after(error)
                if pause is None:
                    raise
            finally:
                witness.reset(token)
            await asyncio.sleep(pause)

    def _look_behind(self, error: Exception) -> None:
        if any(classify(part).ambiguous_commit for part in with_contexts(error)):
            self._witness.committed = True

    def _objection(self, verdict: Verdict) -> str | None:
        if self._idempotent or (verdict.kind is not ErrorKind.DISCONNECTED and not self._witness.committed):
            return None
        return "the work may have been done already; declare idempotent=True if doing it twice is harmless"


class _Alone:
    """Refuses a unit inside a unit on the same source: the inner one would be committed, whatever the outer one does."""

    __slots__ = ("_mark", "_token")

    def __init__(self, where: object) -> None:
        self._mark = (_current(), where)
        self._token: Token[tuple[tuple[object, object], ...]] | None = None

    def __enter__(self) -> None:
        units = _running.get()
        if any(self._mark[0] is owner and self._mark[1] is source for owner, source in units):
            raise TransactionStateError(
                "A retried unit was called inside another one on the same database: it would commit by itself and be "
                "done again with every attempt of the outer one. Call the function itself, with the outer session."
            )
        self._token = _running.set((*units, self._mark))

    def __exit__(self, *_error: object) -> None:
        if self._token is not None:
            _running.reset(self._token)


def _current() -> object:
    try:
        return asyncio.current_task() or threading.current_thread()
    except RuntimeError:
        return threading.current_thread()


def _close(pending: object) -> None:
    if inspect.iscoroutine(pending):
        pending.close()
