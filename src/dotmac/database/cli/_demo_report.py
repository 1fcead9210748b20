"""What the demonstration did, step by step: timings, verdicts, and the same for programs."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class CheckFailedError(Exception):
    """Something that must hold did not; the message says what was wanted and what was seen."""


def require(expected: object, seen: object, what: str) -> None:
    """Nothing, if ``seen`` is what was expected.

    Raises:
        CheckFailedError: It is not.
    """
    if seen != expected:
        raise CheckFailedError(f"{what}: expected {expected}, saw {seen}")


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step: what it showed, how long it took, and what failed, if anything did."""

    name: str
    seconds: float
    detail: str
    failure: str | None = None


@dataclass(slots=True)
class Report:
    """Steps as they happen; ``show`` is called with each."""

    show: Callable[[StepResult], object]
    steps: list[StepResult] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    def run(self, name: str, action: Callable[[], str]) -> bool:
        """Do ``action``, which returns what it showed; False if a check failed. Other errors are raised."""
        begun = time.perf_counter()
        failure, detail = None, ""
        try:
            detail = action()
        except CheckFailedError as error:
            failure = str(error)
        step = StepResult(name, time.perf_counter() - begun, detail, failure)
        self.steps.append(step)
        self.show(step)
        return failure is None

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.perf_counter() - self.started

    @property
    def failures(self) -> list[StepResult]:
        """Steps in which something did not hold."""
        return [step for step in self.steps if step.failure is not None]

    def as_dict(self) -> dict[str, Any]:
        """The report for programs."""
        return {
            "ok": not self.failures,
            "seconds": round(self.seconds, 3),
            "steps": [
                asdict(step) | {"seconds": round(step.seconds, 3), "ok": step.failure is None}
                for step in self.steps
            ],
        }
