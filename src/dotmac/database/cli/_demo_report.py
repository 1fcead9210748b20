"""What the demonstration did, step by step: timings, verdicts, and the same for programs."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


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


@dataclass(frozen=True, slots=True)
class Cell:
    """What one step showed in one isolation mode."""

    seen: str
    holds: bool = True


@dataclass(slots=True)
class ModesTable:
    """Steps down, isolation modes across."""

    modes: tuple[str, ...]
    rows: dict[str, dict[str, Cell]] = field(default_factory=dict)
    attacks: int = 0

    def put(self, step: str, mode: str, seen: str, *, holds: bool = True) -> None:
        """Write down what ``step`` showed in ``mode``."""
        self.rows.setdefault(step, {})[mode] = Cell(seen, holds)

    async def fill(self, step: str, mode: str, action: Awaitable[str]) -> None:
        """Write down what ``action`` returns, or which check failed in it."""
        try:
            self.put(step, mode, await action)
        except CheckFailedError as error:
            self.put(step, mode, str(error), holds=False)

    @property
    def failures(self) -> list[str]:
        """What did not hold, in words."""
        return [
            f"{step}, mode {mode}: {cell.seen}"
            for step, cells in self.rows.items()
            for mode, cell in cells.items()
            if not cell.holds
        ]

    def as_dict(self) -> dict[str, Any]:
        """The table for programs."""
        return {
            "attacks_held": self.attacks,
            "steps": [
                {"name": step} | {mode: asdict(cell) for mode, cell in cells.items()}
                for step, cells in self.rows.items()
            ],
        }


@dataclass(slots=True)
class Report:
    """Steps as they happen; ``show`` is called with each."""

    show: Callable[[StepResult], object]
    steps: list[StepResult] = field(default_factory=list)
    modes: ModesTable | None = None
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
        } | ({} if self.modes is None else {"modes": self.modes.as_dict()})
