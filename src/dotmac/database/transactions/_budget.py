"""A token bucket that keeps retries from multiplying an outage."""

from __future__ import annotations

import math
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class RetryBudget:
    """How many retries after lost or refused connections are allowed together. Thread-safe.

    Each takes a token; tokens come back with time. Retries of conflicts take none: the server lives, and asked for
    them.

    Args:
        capacity: Tokens at the start, and at most.
        per_second: Tokens that come back each second.
        clock: Seconds, monotonic.

    Raises:
        ValueError: A value is out of its range.
    """

    def __init__(
        self, capacity: float = 100, per_second: float = 10, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not (math.isfinite(capacity) and capacity >= 0 and math.isfinite(per_second) and per_second >= 0):
            raise ValueError(
                f"capacity and per_second must be numbers of at least 0, not {capacity!r} and {per_second!r}."
            )
        self._capacity = capacity
        self._per_second = per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = float(capacity)
        self._filled_at = clock()

    @property
    def tokens(self) -> float:
        """How many retries are allowed now."""
        with self._lock:
            self._fill()
            return self._tokens

    def take(self) -> bool:
        """Take one token; False if there is none."""
        with self._lock:
            self._fill()
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True

    def _fill(self) -> None:
        now = self._clock()
        self._tokens = min(self._capacity, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now


_of_process = RetryBudget()
_of_engines: weakref.WeakKeyDictionary[Any, RetryBudget] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def budget_of(bind: Any) -> RetryBudget:
    """The budget of the engine behind ``bind`` (an engine or connection, sync or async); the process's for None."""
    dialect = getattr(bind, "dialect", None)  # shared by an engine's copies with other options
    if dialect is None:
        return _of_process
    with _lock:
        return _of_engines.setdefault(dialect, RetryBudget())
