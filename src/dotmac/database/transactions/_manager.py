"""`TransactionManager`: transactions and retries with one policy, on sessions given or made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from dotmac.database.transactions._core import TransactionOptions
from dotmac.database.transactions._decorators import RETRY
from dotmac.database.transactions._policy import RetryPolicy
from dotmac.database.transactions._sources import check_source
from dotmac.database.transactions._transaction import _async_block, _sync_block
from dotmac.database.transactions._unit import Unit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from dotmac.database.transactions._breaker import CircuitBreaker
    from dotmac.database.transactions._sources import Source
    from dotmac.database.transactions._transaction import AsyncDatabaseTransaction, DatabaseTransaction

Result = TypeVar("Result")


class TransactionManager:
    """Runs callables as transactions, trying them again when the database asks for it.

    Args:
        source: Where fresh sessions come from: a session factory, an engine, a `Database` or `AsyncDatabase`; None for
            the database that the environment names.
        max_retries: Retries after the first attempt; 0 to 99.
        retry_delay: Seconds before the first retry.
        backoff_multiplier: Growth of the pause from one retry to the next.
        policy: Used instead of these three.
        isolation_level: For every transaction; None for the engine's.
        read_only: The server refuses writes.
        track_outcome: Ask PostgreSQL for the transaction's number before COMMIT, at one round trip. If the answer to
            COMMIT is lost, the server is asked: a committed transaction then succeeds, and one that was rolled back is
            tried again.
        breaker: Each attempt goes through it; one that is open is waited for if that takes no longer than
            the policy's ``max_delay``.

    Example:
        >>> from dotmac.database import Database
        >>> with Database("sqlite:///:memory:") as database:
        ...     manager = TransactionManager(database, max_retries=3)
        ...     manager.execute_with_retry(lambda session: session.connection().dialect.name)
        'sqlite'

    Raises:
        ValueError: A value is out of its range.
        TypeError: Sessions cannot come from ``source``.
    """

    def __init__(
        self,
        source: Source | None = None,
        *,
        max_retries: int = 3,
        retry_delay: float = 1.0,
        backoff_multiplier: float = 2.0,
        policy: RetryPolicy | None = None,
        isolation_level: str | None = None,
        read_only: bool = False,
        track_outcome: bool = False,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        check_source(source)
        if isinstance(max_retries, bool) or not isinstance(max_retries, int) or max_retries < 0:
            raise ValueError(f"max_retries must be a whole number of at least 0, not {max_retries!r}.")
        self.policy = policy or RetryPolicy(
            max_attempts=max_retries + 1, base_delay=retry_delay, multiplier=backoff_multiplier
        )
        self._source = source
        self._breaker = breaker
        self._options = TransactionOptions(
            isolation_level=isolation_level, read_only=read_only, track_outcome=track_outcome
        )

    def sync_transaction(self, session: Session) -> AbstractContextManager[DatabaseTransaction]:
        """One attempt as a block: see `DatabaseTransaction.sync_transaction`. A block cannot be tried again."""
        return _sync_block(session, self._options)

    def async_transaction(
        self, session: AsyncSession
    ) -> AbstractAsyncContextManager[AsyncDatabaseTransaction]:
        """Same as `TransactionManager.sync_transaction`, for asyncio."""
        return _async_block(session, self._options)

    def execute_with_retry(
        self, function: Callable[[Session], Result], session: Session | None = None
    ) -> Result:
        """The result of ``function(session)`` once it is committed.

        Each attempt is a whole transaction, on a fresh session; or on ``session``, which must not be in a transaction and
        is reset between attempts by the rollback. A function decorated with `with_retry` keeps its own policy.

        Raises:
            TransactionStateError: ``session`` is in a transaction, this is called inside another retried unit on the
                same source, or ``function`` committed by itself or swallowed an error.
            CommitOutcomeUnknownError: The connection was lost during COMMIT; not tried again.
            CommitFailedError: The server refused COMMIT, for good or too often.
            Exception: Whatever ``function`` raised, at once if trying again does not help.
        """
        policy, function = self._unwrapped(function)
        return self._unit(policy, session).run(function)

    async def async_execute_with_retry(
        self, function: Callable[[AsyncSession], Awaitable[Result]], session: AsyncSession | None = None
    ) -> Result:
        """Same as `TransactionManager.execute_with_retry`, for asyncio."""
        policy, function = self._unwrapped(function)
        return await self._unit(policy, session).run_async(function)

    def _unwrapped(self, function: Any) -> tuple[RetryPolicy, Any]:
        if not callable(function):
            raise TypeError(f"A function that takes a session is needed, not {type(function).__name__}.")
        own: tuple[RetryPolicy, Any] = getattr(function, RETRY, (self.policy, function))
        return own

    def _unit(self, policy: RetryPolicy, session: Any) -> Unit:
        return Unit(
            policy, options=self._options, source=self._source, session=session, breaker=self._breaker
        )
