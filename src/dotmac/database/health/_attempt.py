"""The clock of one probe: which stage it is in, when that stage must end, and how it is ended. No I/O of its own.

One side connects and asks, in a thread or a task; the other waits. Stages: wait for the turn and connect, ask.
A connection kept from earlier gets only part of the time, so that a dead one leaves enough for a fresh one.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dotmac.database.health._lifeline import Lifeline

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEPT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take, in seconds.

    Attributes:
        connection: To get a connection.
        query: To answer a question.
        total: For everything a check does.
    """

    connection: float
    query: float
    total: float

    def __post_init__(self) -> None:
        for name in ("connection", "query", "total"):
            seconds = getattr(self, name)
            if isinstance(seconds, bool) or not isinstance(seconds, int | float):
                raise TypeError(f"{name}: a number of seconds is needed, not {type(seconds).__name__}.")
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"{name}: seconds must be finite and above 0, not {seconds:g}.")


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a probe found out.

    Attributes:
        connect_seconds: Until a connection was there.
        query_seconds: Until the question was answered.
        facts: What the server said about itself.
    """

    connect_seconds: float
    query_seconds: float
    facts: Mapping[str, Any]


class NoAnswerError(TimeoutError):
    """A stage took longer than it may; ``stage`` is ``connect`` or ``query``."""

    def __init__(self, stage: str, seconds: float) -> None:
        super().__init__(f"No answer within {seconds:g} s.")
        self.stage = stage
        self.seconds = seconds


class Attempt:
    """One probe between the side that asks and the side that waits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._latest = self._began + limits.total
        self._stage_ends = min(self._began + limits.connection, self._latest)
        self._short = min(limits.connection, limits.query) * _KEPT_SHARE
        self._stage = "connect"
        self._lifeline: Lifeline | None = None
        self._is_kept = False
        self._failure: NoAnswerError | None = None

    @property
    def failure(self) -> NoAnswerError | None:
        """Why it was given up, or None."""
        return self._failure

    @property
    def can_be_cut(self) -> bool:
        """True while a socket is known: then `give_up` was enough to end the asking side's wait."""
        lifeline = self._lifeline
        return lifeline is not None and lifeline.can_cut

    def patience(self) -> float:
        """Seconds after which to look again. A stage begun meanwhile cannot end earlier than that."""
        now = time.monotonic()
        return max(0.0, min(self._stage_ends - now, self._latest - now, self._short))

    def connecting(self) -> None:
        """The asking side opens a connection now; its time starts anew.

        Raises:
            NoAnswerError: It was given up meanwhile.
        """
        self._enter("connect", self._limits.connection, None, is_kept=False)

    def asking(self, driver_connection: Any, *, is_kept: bool) -> None:
        """The asking side has a connection and asks now.

        Raises:
            NoAnswerError: It was given up meanwhile.
        """
        seconds = self._short if is_kept else self._limits.query
        self._enter("query", seconds, Lifeline(driver_connection), is_kept=is_kept)

    def asked(self) -> None:
        """The asking side waits on that connection no longer."""
        with self._lock:
            lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            lifeline.let_go()

    def expire(self) -> None:
        """End the stage if its time is up: cut a kept connection, or give up."""
        now = time.monotonic()
        if now < min(self._stage_ends, self._latest):
            return
        if now >= self._latest or not self.cut_kept():
            self.give_up()

    def cut_kept(self) -> bool:
        """Cut the connection that is waited on if it is a kept one, and leave time to connect anew."""
        with self._lock:
            if not self._is_kept or self._lifeline is None:
                return False
            self._lifeline.cut()
            self._is_kept = False
            self._stage_ends = min(time.monotonic() + self._limits.connection, self._latest)
            return True

    def give_up(self) -> None:
        """End it: cut the connection, and let the asking side find out at its next step."""
        with self._lock:
            if self._failure is None:
                waited = round(time.monotonic() - self._began, 3)
                self._failure = NoAnswerError(self._stage, waited)
            if self._lifeline is not None:
                self._lifeline.cut()

    def _enter(self, stage: str, seconds: float, lifeline: Lifeline | None, *, is_kept: bool) -> None:
        with self._lock:
            if self._failure is not None:
                if lifeline is not None:
                    lifeline.let_go()
                raise self._failure
            self._stage, self._lifeline, self._is_kept = stage, lifeline, is_kept
            self._stage_ends = min(time.monotonic() + seconds, self._latest)
