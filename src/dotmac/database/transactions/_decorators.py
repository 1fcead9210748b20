"""Retries as decorators: `with_retry`, and `database_error_handler` for code that opens its own connections."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from sqlalchemy.orm import Session, scoped_session

from dotmac.database.transactions._policy import RetryPolicy
from dotmac.database.transactions._sources import check_source, is_async_session
from dotmac.database.transactions._transaction import AsyncDatabaseTransaction, DatabaseTransaction
from dotmac.database.transactions._unit import LooseUnit, Unit

if TYPE_CHECKING:
    from collections.abc import Callable

    from dotmac.database.transactions._sources import Source

    _UnitFor = Callable[[tuple[Any, ...], dict[str, Any]], Unit | LooseUnit]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
RETRY = "__dotmac_retry__"
"""Where a decorated function keeps ``(policy, function)``, for `TransactionManager`."""


@overload
def with_retry(function: Callable[Parameters, Result], /) -> Callable[Parameters, Result]: ...


@overload
def with_retry(
    policy: RetryPolicy | None = None, /, *, source: Source | None = None, idempotent: bool = False
) -> Callable[[Callable[..., Result]], Callable[..., Result]]: ...


def with_retry(policy: Any = None, /, *, source: Source | None = None, idempotent: bool = False) -> Any:
    """Try a function, plain or async, again when the database asks for it.

    What is tried is a whole transaction: it begins before each call and is committed after it. The session is the one
    among the arguments, which must not be in a transaction; or, with ``source``, a fresh one for each attempt, passed
    first. A function with neither manages its own sessions and has to be declared idempotent.

    Args:
        policy: How often and how soon; default ``RetryPolicy()``.
        source: A session factory, engine, `Database` or `AsyncDatabase`.
        idempotent: Doing it twice is harmless, so that it may be tried again even when it may have been done.

    Example:
        >>> @with_retry(RetryPolicy(max_attempts=5, base_delay=0.1), idempotent=True)
        ... def answer():
        ...     return 42
        >>> answer()
        42

    Raises:
        TypeError: On a call with no session, no ``source`` and no ``idempotent``; on a generator function.
        TransactionStateError: On a call with a session that is in a transaction.
    """
    if callable(policy):
        return with_retry()(policy)
    chosen = _policy(policy)
    check_source(source)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        return _decorated(function, chosen, source=source, idempotent=idempotent, needs_session=True)

    return decorate


def database_error_handler(
    retries: int = 3,
    backoff: float = 2.0,
    *,
    delay_seconds: float = 0.1,
    idempotent: bool = False,
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Try a function that opens its own sessions or connections again, ``retries`` times, with growing pauses.

    Unless it is ``idempotent``, only errors are retried that leave nothing behind: refused connections, deadlocks,
    serialization failures, lock timeouts; and none after a session committed. The function should be one transaction. With
    a session among its arguments it is treated as by `with_retry`.

    Args:
        retries: Retries after the first attempt; 0 to 99.
        backoff: Growth of the pause from one retry to the next.
        delay_seconds: The first pause.
        idempotent: Doing it twice is harmless, so that it is also tried again after a lost connection.

    Raises:
        ValueError: A value is out of its range.
    """
    policy = RetryPolicy(max_attempts=_attempts(retries), base_delay=delay_seconds, multiplier=backoff)

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        decorated = _decorated(function, policy, source=None, idempotent=idempotent, needs_session=False)
        return cast("Callable[Parameters, Result]", decorated)

    return decorate


def _policy(given: object) -> RetryPolicy:
    if given is None:
        return RetryPolicy()
    if not isinstance(given, RetryPolicy):
        raise TypeError(f"with_retry takes a RetryPolicy, not {type(given).__name__}.")
    return given


def _attempts(retries: object) -> int:
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise ValueError(f"retries must be a whole number of at least 0, not {retries!r}.")
    return retries + 1


def _decorated(
    function: Callable[..., Any],
    policy: RetryPolicy,
    *,
    source: Source | None,
    idempotent: bool,
    needs_session: bool,
) -> Callable[..., Any]:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError("A generator cannot be tried again: what it yielded is gone. Return a list instead.")

    def unit_for(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Unit | LooseUnit:
        session = session_in(arguments, keywords)
        if session is not None or source is not None:
            return Unit(policy, session=session, source=source)
        if needs_session and not idempotent:
            raise TypeError(
                f"{function.__qualname__} got no session, so what it does cannot be tried again as one transaction. "
                f"Pass a session, or decorate with source=…, or with idempotent=True if doing it twice is harmless."
            )
        return LooseUnit(policy, idempotent=idempotent)

    decorated = (_retried_async if inspect.iscoroutinefunction(function) else _retried)(function, unit_for)
    setattr(decorated, RETRY, (policy, function))
    return decorated


def _retried(function: Callable[..., Any], unit_for: _UnitFor) -> Callable[..., Any]:
    @functools.wraps(function)
    def retried(*arguments: Any, **keywords: Any) -> Any:
        unit = unit_for(arguments, keywords)
        if isinstance(unit, LooseUnit):
            return unit.run(functools.partial(function, *arguments, **keywords))
        if unit.has_session:
            return unit.run(lambda _: function(*arguments, **keywords))
        return unit.run(lambda session: function(session, *arguments, **keywords))

    return retried


def _retried_async(function: Callable[..., Any], unit_for: _UnitFor) -> Callable[..., Any]:
    @functools.wraps(function)
    async def retried(*arguments: Any, **keywords: Any) -> Any:
        unit = unit_for(arguments, keywords)
        if isinstance(unit, LooseUnit):
            return await unit.run_async(functools.partial(function, *arguments, **keywords))
        if unit.has_session:
            return await unit.run_async(lambda _: function(*arguments, **keywords))
        return await unit.run_async(lambda session: function(session, *arguments, **keywords))

    return retried


def session_in(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """The first session, blocking or asyncio, among a call's arguments; None if there is none."""
    for value in (*arguments, *keywords.values()):
        if isinstance(value, Session) or is_async_session(value):
            return value
        if isinstance(value, scoped_session):
            return value()
        if isinstance(value, DatabaseTransaction | AsyncDatabaseTransaction):
            return value.session
    return None
