"""A circuit breaker that opens for lost and refused connections only: wrong data and cancelled calls say nothing.

States and half-open trial as in Nygard, "Release It!" (2nd edition, section 5.2).
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
import threading
import time
from collections import deque
from contextvars import ContextVar
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, cast

from dotmac.database.errors import CircuitOpenError
from dotmac.database.transactions._classification import classify

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_logger = logging.getLogger("dotmac.database.transactions")
_MOST_CALLS = 100_000
_SUCCESS = -math.inf


class CircuitState(StrEnum):
    """What a breaker does with the next call; equal to the plain strings."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Refuses calls for a while after repeated connection failures, then lets one through to try.

    Use it as a decorator of plain and async functions, or as ``with breaker:`` and ``async with breaker:``. One breaker
    guards one server; `CircuitBreakers` keeps one for each. Thread-safe, and usable from any event loop.

    Args:
        failure_threshold: It opens at this many connection failures among the last ``window_calls`` calls.
        recovery_timeout: Seconds until a call is let through to try.
        window_calls: Default: twice ``failure_threshold``.
        window_seconds: Failures longer ago than this do not count.
        minimum_calls: It does not open before this many calls; default: ``failure_threshold``.
        name: Names it in errors and logs.
        clock: Seconds, monotonic.
        counts: Which errors are failures of the server; default: what `classify` calls a connectivity failure.

    Other errors and cancellations are neither failures nor
    successes; when one ends the call that tries, the next call may try.

    Example:
        >>> @CircuitBreaker(failure_threshold=5, recovery_timeout=60.0)
        ... def work():
        ...     return "done"
        >>> work(), work.breaker.state == "closed"
        ('done', True)

    Raises:
        ValueError: A value is out of its range.
    """

    def __init__(
        self,
        failure_threshold: int = 5,
        recovery_timeout: float = 60.0,
        *,
        window_calls: int | None = None,
        window_seconds: float = 60.0,
        minimum_calls: int | None = None,
        name: str = "database",
        clock: Callable[[], float] = time.monotonic,
        counts: Callable[[BaseException], bool] | None = None,
    ) -> None:
        window = 2 * failure_threshold if window_calls is None else window_calls
        minimum = failure_threshold if minimum_calls is None else minimum_calls
        for label, count in (
            ("failure_threshold", failure_threshold),
            ("window_calls", window),
            ("minimum_calls", minimum),
        ):
            if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MOST_CALLS:
                raise ValueError(f"{label} must be a whole number from 1 to {_MOST_CALLS}, not {count!r}.")
        if max(failure_threshold, minimum) > window:
            raise ValueError(
                f"window_calls ({window}) must be at least failure_threshold and minimum_calls: else the breaker "
                f"could never open."
            )
        for label, seconds in (("recovery_timeout", recovery_timeout), ("window_seconds", window_seconds)):
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"{label} must be a number of seconds above 0, not {seconds!r}.")
        self.name = name
        self._threshold = failure_threshold
        self._recovery = recovery_timeout
        self._window_seconds = window_seconds
        self._minimum = minimum
        self._clock = clock
        self._counts = counts or _is_lost_connection
        self._lock = threading.Lock()
        # When each of the last calls failed, or _SUCCESS; appending is atomic, so success takes no lock.
        self._calls: deque[float] = deque(maxlen=window)
        self._is_closed = True
        self._opened_at = 0.0
        self._is_trying = False
        # A call's outcome counts only in the generation it began in.
        self._generation = 0
        self._entered: ContextVar[tuple[int, ...]] = ContextVar("dotmac_database_breaker", default=())

    def __repr__(self) -> str:
        return f"CircuitBreaker({self.name!r}, state={self.state.value!r})"

    @property
    def state(self) -> CircuitState:
        """What happens to the next call."""
        if self._is_closed:
            return CircuitState.CLOSED
        with self._lock:
            if self._is_closed:
                return CircuitState.CLOSED
            return (
                CircuitState.OPEN
                if self._clock() < self._opened_at + self._recovery
                else CircuitState.HALF_OPEN
            )

    def reset(self) -> None:
        """Close it and forget what it has seen."""
        with self._lock:
            self._close()

    def __call__(self, function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        """Guard ``function``; its ``breaker`` attribute is this breaker."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError("A generator does its work after the call: use `with breaker:` around its use.")
        if inspect.iscoroutinefunction(function):
            guarded = self._guard_async(function)
        else:
            guarded = self._guard(function)
        guarded.breaker = self
        return cast("Callable[Parameters, Result]", guarded)

    def _guard(self, function: Callable[..., Any]) -> Any:
        admit, calls = self._admit, self._calls

        @functools.wraps(function)
        def guarded(*arguments: Any, **keywords: Any) -> Any:
            generation = self._generation if self._is_closed else admit()
            try:
                result = function(*arguments, **keywords)
            except BaseException as error:
                self._failed(generation, error)
                raise
            if self._is_closed and generation == self._generation:
                calls.append(_SUCCESS)
            else:
                self._succeeded(generation)
            return result

        return guarded

    def _guard_async(self, function: Callable[..., Any]) -> Any:
        admit, calls = self._admit, self._calls

        @functools.wraps(function)
        async def guarded(*arguments: Any, **keywords: Any) -> Any:
            generation = self._generation if self._is_closed else admit()
            try:
                result = await function(*arguments, **keywords)
            except BaseException as error:
                self._failed(generation, error)
                raise
            if self._is_closed and generation == self._generation:
                calls.append(_SUCCESS)
            else:
                self._succeeded(generation)
            return result

        return guarded

    def __enter__(self) -> Self:
        generation = self._generation if self._is_closed else self._admit()
        self._entered.set((*self._entered.get(), generation))
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        *outer, generation = self._entered.get()
        self._entered.set(tuple(outer))
        if error is not None:
            self._failed(generation, error)
        elif self._is_closed and generation == self._generation:
            self._calls.append(_SUCCESS)
        else:
            self._succeeded(generation)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.__exit__(kind, error, trace)

    def _admit(self) -> int:
        """The generation that this call belongs to.

        Raises:
            CircuitOpenError: It is refused.
        """
        with self._lock:
            if self._is_closed:
                return self._generation
            wait = self._opened_at + self._recovery - self._clock()
            if wait > 0 or self._is_trying:
                raise CircuitOpenError(self.name, retry_after=max(wait, 0.0))
            self._is_trying = True
            self._generation += 1
            return self._generation

    def _succeeded(self, generation: int) -> None:
        with self._lock:
            if generation != self._generation:
                return
            if self._is_closed:
                self._calls.append(_SUCCESS)
            else:
                _logger.info("Circuit breaker %r closes: the server answers again.", self.name)
                self._close()

    def _failed(self, generation: int, error: BaseException) -> None:
        counts = self._counts(error)
        with self._lock:
            if generation != self._generation:
                return
            if not counts:
                self._is_trying = False
                return
            now = self._clock()
            if not self._is_closed:
                self._open(now)
                return
            self._calls.append(now)
            recent = sum(failed_at >= now - self._window_seconds for failed_at in self._calls)
            if recent >= self._threshold and len(self._calls) >= self._minimum:
                _logger.warning(
                    "Circuit breaker %r opens for %g s after %d connection failures.",
                    self.name,
                    self._recovery,
                    recent,
                )
                self._open(now)

    def _open(self, now: float) -> None:
        self._is_closed = False
        self._is_trying = False
        self._opened_at = now
        self._generation += 1

    def _close(self) -> None:
        self._calls.clear()
        self._is_trying = False
        self._generation += 1
        self._is_closed = True


def _is_lost_connection(error: BaseException) -> bool:
    return classify(error).connectivity


class CircuitBreakers:
    """One `CircuitBreaker` for each node, made on first use: ``breakers["db1:5432"]``.

    Takes the arguments of `CircuitBreaker`; the node's name becomes the breaker's.
    """

    def __init__(self, failure_threshold: int = 5, recovery_timeout: float = 60.0, **options: Any) -> None:
        self._make = functools.partial(CircuitBreaker, failure_threshold, recovery_timeout, **options)
        self._make(name="checked")  # wrong values are refused now, not at the first failure
        self._lock = threading.Lock()
        self._breakers: dict[Hashable, CircuitBreaker] = {}

    def __getitem__(self, node: Hashable) -> CircuitBreaker:
        with self._lock:
            if node not in self._breakers:
                self._breakers[node] = self._make(name=str(node))
            return self._breakers[node]

    def states(self) -> dict[Hashable, CircuitState]:
        """The state of every breaker made so far."""
        with self._lock:
            return {node: breaker.state for node, breaker in self._breakers.items()}
