"""How often, how soon and for which errors a transaction is tried again; values in, pauses out, no I/O."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from dotmac.database.transactions._classification import ErrorKind

if TYPE_CHECKING:
    from dotmac.database.transactions._budget import RetryBudget
    from dotmac.database.transactions._classification import Verdict

_MOST_ATTEMPTS = 100
_LONGEST_SECONDS = 86_400.0
_LONGEST_EXPONENT = 64


class RetryStrategy(StrEnum):
    """How the pause grows from one retry to the next."""

    FIXED = "fixed"
    """``base_delay`` each time."""
    LINEAR = "linear"
    """``base_delay``, twice that, three times that."""
    EXPONENTIAL = "exponential"
    """``base_delay``, times ``multiplier``, times ``multiplier`` again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a transaction is tried again. Immutable; may be shared.

    Attributes:
        max_attempts: Attempts in all, the first included; 1 to 100.
        base_delay: Seconds before the first retry.
        strategy: How the pause grows.
        multiplier: Growth of the exponential strategy, at least 1.
        max_delay: Longest pause, in seconds. An open circuit breaker is waited for if it takes no longer than this.
        jitter_ratio: Share of each pause that is random, 0 to 1: a pause of ``d`` lies between ``d * (1 - ratio)``
            and ``d``.
        deadline_seconds: No retry begins later than this after the start; None for no limit. A running attempt is
            not cut off.
        lock_timeout_attempts: As ``max_attempts``, where a lock was not granted in time: waiting for it again is
            costly.
        retry_duplicates: Also retry unique and exclusion violations, for callables that look before they insert.
        budget: Limits the retries of everything that shares it, so that an outage does not multiply load; None for
            the one of the engine.

    Example:
        >>> policy = RetryPolicy(max_attempts=4, base_delay=0.1, jitter_ratio=0)
        >>> [policy.delay(retry) for retry in (1, 2, 3)]
        [0.1, 0.2, 0.4]

    Raises:
        ValueError: A value is out of its range.
    """

    max_attempts: int = 3
    base_delay: float = 0.1
    strategy: RetryStrategy = RetryStrategy.EXPONENTIAL
    multiplier: float = 2.0
    max_delay: float = 30.0
    jitter_ratio: float = 0.5
    deadline_seconds: float | None = None
    lock_timeout_attempts: int = 2
    retry_duplicates: bool = False
    budget: RetryBudget | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "strategy", RetryStrategy(self.strategy))
        _check_whole("max_attempts", self.max_attempts)
        _check_whole("lock_timeout_attempts", self.lock_timeout_attempts)
        _check_range("base_delay", self.base_delay, 0, _LONGEST_SECONDS)
        _check_range("max_delay", self.max_delay, 0, _LONGEST_SECONDS)
        _check_range("multiplier", self.multiplier, 1, 1000)
        _check_range("jitter_ratio", self.jitter_ratio, 0, 1)
        if self.deadline_seconds is not None:
            _check_range("deadline_seconds", self.deadline_seconds, 0, _LONGEST_SECONDS)

    def delay(self, retry: int) -> float:
        """Seconds to wait before retry number ``retry`` (1 for the first), jitter included."""
        if self.strategy is RetryStrategy.FIXED:
            grown = self.base_delay
        elif self.strategy is RetryStrategy.LINEAR:
            grown = self.base_delay * retry
        else:
            grown = self.base_delay * self.multiplier ** min(retry - 1, _LONGEST_EXPONENT)
        capped = min(grown, self.max_delay)
        # Spreading retries needs no secrecy.
        return capped * (1 - self.jitter_ratio * random.random()) if self.jitter_ratio else capped  # noqa: S311

    def attempts_for(self, verdict: Verdict) -> int:
        """How many attempts in all an error like this one is worth; 1 where it is not retried."""
        if verdict.kind in {ErrorKind.STALE_PLAN, ErrorKind.READ_ONLY_NODE}:
            return min(2, self.max_attempts)
        if verdict.kind is ErrorKind.LOCK_TIMEOUT:
            return min(self.lock_timeout_attempts, self.max_attempts)
        if verdict.retryable or (self.retry_duplicates and verdict.kind is ErrorKind.DUPLICATE):
            return self.max_attempts
        return 1


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number from 1 to {_MOST_ATTEMPTS}, not {value!r}.")  # noqa: TRY004 - one error for bad values
    if not 1 <= value <= _MOST_ATTEMPTS:
        raise ValueError(f"{name} must be from 1 to {_MOST_ATTEMPTS}, not {value!r}.")


def _check_range(name: str, value: object, low: float, high: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high:  # type: ignore[operator]
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, not {value!r}.")
