"""What a cache counts, for each namespace and tenant."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields


@dataclass(slots=True)
class Counters:
    """Counts since the process started (or, summed over processes, since the last purge).

    Attributes:
        hits: Values found, in memory or in Redis, cached None included.
        misses: Values not found.
        stale: Values given out after their time to live, while or because loading did not give a newer one.
        coalesced: Callers that shared the load or the read of another caller.
        errors: Exchanges with Redis that failed, entries that could not be read, loads that failed behind a stale value.
        memory_hits: Those of the hits that came from this process's memory.
        loads: Times a loader ran.
        refused: Loaded values that were not stored, because they were invalidated meanwhile.
        writes: Values stored.
        deletes: Values removed by key or pattern.
        invalidations: Invalidations by pattern, tag and namespace.
    """

    hits: int = 0
    misses: int = 0
    stale: int = 0
    coalesced: int = 0
    errors: int = 0
    memory_hits: int = 0
    loads: int = 0
    refused: int = 0
    writes: int = 0
    deletes: int = 0
    invalidations: int = 0

    @property
    def hit_rate(self) -> float:
        """Hits and stale values among all that was asked for; 0.0 before anything was."""
        found = self.hits + self.stale
        asked = found + self.misses
        return found / asked if asked else 0.0

    def as_mapping(self) -> dict[str, float]:
        """Every count, and ``hit_rate``."""
        return {**asdict(self), "hit_rate": self.hit_rate}

    def since(self, before: Counters) -> dict[str, int]:
        """What was added to ``before``, without zeros."""
        return {
            name: difference for name in NAMES if (difference := getattr(self, name) - getattr(before, name))
        }

    def add(self, other: dict[str, int]) -> None:
        """Add ``other``; names that are not known are left out."""
        for name, count in other.items():
            if name in NAMES:
                setattr(self, name, getattr(self, name) + count)


NAMES = tuple(field.name for field in fields(Counters))
