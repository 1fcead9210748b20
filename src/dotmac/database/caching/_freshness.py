"""How long entries live, and what an entry is worth now: pure decisions on numbers."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dotmac.database.caching._envelope import Entry

Duration = float | int | timedelta
"""Seconds, or a timedelta."""


def seconds_of(value: Duration, name: str) -> float:
    """``value`` in seconds.

    Raises:
        ValueError: It is not above 0, or is no number.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if not 0 < seconds < 10**9:
        raise ValueError(f"{name} must be a time above 0 (and below 30 years), not {value!r}.")
    return seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """How a cache treats its entries. All times are in seconds.

    Attributes:
        stale_seconds: How long after its time to live an entry is kept: `get_or_load` returns it at once and loads
            behind (stale-while-revalidate), or returns it when loading fails (fail-safe). 0 keeps nothing.
        negative_ttl: Time to live of a loaded None; default: that of any other value.
        jitter: By what share times to live are shortened at random, so that entries written together do not end
            together; 0.1 means 90 to 100 %.
        soft_timeout: After this long, a load that has a stale value to offer returns it, and goes on behind.
        hard_timeout: After this long, a load is cancelled and fails.
        lease_seconds: How long other processes wait for one that died while it loaded.
        memory_seconds: How long an entry is also kept in this process's memory; 0 keeps none there.
        memory_entries: How many entries at most are kept in memory.
        timeout_seconds: How long one exchange with Redis may take.
        quota: How many entries a tenant may have; the ones nearest to their end make room.
    """

    stale_seconds: float = 0.0
    negative_ttl: float | None = None
    jitter: float = 0.1
    soft_timeout: float | None = None
    hard_timeout: float = 30.0
    lease_seconds: float = 5.0
    memory_seconds: float = 0.0
    memory_entries: int = 10_000
    timeout_seconds: float = 0.1
    quota: int | None = None

    def __post_init__(self) -> None:
        for name in ("hard_timeout", "lease_seconds", "timeout_seconds"):
            seconds_of(getattr(self, name), name)
        for name in ("negative_ttl", "soft_timeout"):
            if getattr(self, name) is not None:
                seconds_of(getattr(self, name), name)
        for name in ("stale_seconds", "memory_seconds"):
            if not 0 <= getattr(self, name) < 10**9:
                raise ValueError(f"{name} must be 0 or a number of seconds, not {getattr(self, name)!r}.")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter must be from 0 to below 1, not {self.jitter!r}.")
        for name in ("memory_entries", "quota"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number above 0, not {value!r}.")


@dataclass(frozen=True, slots=True)
class Lifetime:
    """When an entry ends.

    Attributes:
        fresh_until: Logical expiry, in milliseconds since 1970.
        kept_until: Physical expiry, the same way.
        milliseconds: From now to its physical expiry.
    """

    fresh_until: int
    kept_until: int
    milliseconds: int


def lifetime(
    policy: CachePolicy,
    ttl: float,
    *,
    clock: Callable[[], float] = time.time,
    chance: Callable[[], float] = random.random,
) -> Lifetime:
    """The lifetime of an entry written now, never longer than ``ttl`` fresh."""
    fresh = max(1, int(ttl * (1.0 - policy.jitter * chance()) * 1000))
    kept = fresh + int(policy.stale_seconds * 1000)
    now = int(clock() * 1000)
    return Lifetime(now + fresh, now + kept, kept)


class Worth(Enum):
    """What an entry is good for."""

    FRESH = auto()
    STALE = auto()
    ENDED = auto()


def worth(entry: Entry, now_milliseconds: float) -> Worth:
    """What ``entry`` is good for at that time."""
    if now_milliseconds < entry.fresh_until:
        return Worth.FRESH
    return Worth.STALE if now_milliseconds < entry.kept_until else Worth.ENDED
