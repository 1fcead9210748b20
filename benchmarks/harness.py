"""Side-by-side timing: contenders take turns in every round, so that a drifting machine is fair to all."""

from __future__ import annotations

import gc
import json
import random
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Contender = Callable[[int], Awaitable[None]]


@dataclass
class Case:
    """One comparison.

    Attributes:
        name: What is done.
        contenders: Each does the work ``n`` times; the first is the baseline, "dotmac" is ours.
        times: How often a round does the work.
        bar: The ratio to the baseline that ours is to stay under.
        clock: What the bar is about: "cpu" (this process) or "wall".
        after: Puts the database back between measurements; not timed.
        prepare: Runs once before the first round; not timed.
    """

    name: str
    contenders: dict[str, Contender]
    times: int
    bar: float | None = None
    clock: str = "wall"
    after: Callable[[], Awaitable[None]] | None = None
    prepare: Callable[[], Awaitable[None]] | None = None


@dataclass
class Timing:
    """Seconds per piece of work, a value a round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


async def run(case: Case, rounds: int) -> dict[str, Timing]:
    """Time every contender in every round, in a new random order each time; one warm-up round is not counted."""
    timings = {name: Timing() for name in case.contenders}
    for round_number in range(rounds + 1):
        names = list(case.contenders)
        random.shuffle(names)
        for name in names:
            gc.collect()
            gc.disable()
            wall, cpu = time.perf_counter(), time.process_time()
            await case.contenders[name](case.times)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            gc.enable()
            if case.after is not None:
                await case.after()
            if round_number:
                timings[name].wall.append(wall / case.times)
                timings[name].cpu.append(cpu / case.times)
    return timings


def ratio(timing: Timing, baseline: Timing, clock: str) -> float:
    """The median over rounds of the ratio within a round."""
    pairs = zip(getattr(timing, clock), getattr(baseline, clock), strict=True)
    return statistics.median(ours / max(theirs, 1e-9) for ours, theirs in pairs)


def micros(values: list[float]) -> float:
    """Median in microseconds."""
    return statistics.median(values) * 1e6


def report(lines: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print a table of what the lines have in common with each other, or each line as JSON."""
    if as_json:
        for line in lines:
            print(json.dumps(line))
        return
    before: list[str] = []
    for line in lines:
        columns = list(line)
        if columns != before:
            print("\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
            before = columns
        print("| " + " | ".join("" if value is None else str(value) for value in line.values()) + " |")
