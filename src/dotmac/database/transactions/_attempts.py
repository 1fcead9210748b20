"""The one retry loop's judgement: an error goes in, a pause or the end comes out; no I/O."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from dotmac.database.transactions._budget import budget_of
from dotmac.database.transactions._classification import ErrorKind, classify

if TYPE_CHECKING:
    from collections.abc import Callable

    from dotmac.database.transactions._classification import Verdict
    from dotmac.database.transactions._policy import RetryPolicy

_logger = logging.getLogger("dotmac.database.transactions")


class Attempts:
    """One unit of work's attempts so far.

    Args:
        policy: How often and how soon.
        bind: What the unit works on, for its budget; None if unknown.
        objection: Says why an error that the policy would retry is not safe to retry for this unit; None if it is.
    """

    def __init__(self, policy: RetryPolicy, *, objection: Callable[[Verdict], str | None]) -> None:
        self.bind: object = None
        self.made = 0
        self._policy = policy
        self._objection = objection
        self._started = time.monotonic()

    def pause_after(self, error: Exception) -> float | None:
        """Seconds to wait before the next attempt, or None when ``error`` is to be raised; a note then says why."""
        self.made += 1
        verdict = classify(error)
        reason = self._end_because(verdict)
        if reason is not None:
            self._give_up(error, reason)
            return None
        pause = self._policy.delay(self.made)
        if verdict.kind is ErrorKind.BREAKER_OPEN:
            wait: float = getattr(error, "retry_after", 0.0)
            if wait > self._policy.max_delay:
                return None
            pause = max(pause, wait)
        deadline = self._policy.deadline_seconds
        if deadline is not None and time.monotonic() - self._started + pause > deadline:
            self._give_up(error, f"the deadline of {deadline:g} s leaves no time for another")
            return None
        # Last, so that no token is taken for a retry that does not happen. An open breaker sent nothing.
        if verdict.connectivity and not (self._policy.budget or budget_of(self.bind)).take():
            self._give_up(error, "the retry budget is used up: too many connections fail at once")
            return None
        _logger.info(
            "Attempt %d failed (%s, code %s); next attempt in %.3f s.",
            self.made,
            verdict.kind.value,
            verdict.code,
            pause,
        )
        return pause

    def _end_because(self, verdict: Verdict) -> str | None:
        """Why there is no next attempt; None if there may be one, empty where nothing need be said."""
        limit = self._policy.attempts_for(verdict)
        if self.made >= limit:
            return "no more are allowed for this error" if limit > 1 else ""
        return self._objection(verdict)

    def _give_up(self, error: Exception, reason: str) -> None:
        if reason:
            error.add_note(f"Gave up after {self.made} attempt{'s'[: self.made > 1]}: {reason}.")
