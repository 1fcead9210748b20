"""From what was measured to what is said: one measurement answers for connectivity, query and performance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import pool as pools

from dotmac.database.health._reasons import reason_of
from dotmac.database.health._result import HealthCheckResult, HealthStatus

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from dotmac.database.health._attempt import Measurement

CONNECTIVITY, QUERY, PERFORMANCE, POOL = "connectivity", "query", "performance", "pool"
BUILT_IN = (CONNECTIVITY, QUERY, PERFORMANCE, POOL)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on something is no longer healthy.

    Attributes:
        slow_query_seconds: A query that takes this long is slow.
        pool_degraded_at: Share of the pool in use, of 1.
        pool_unhealthy_at: Share of the pool in use; None for never.
    """

    slow_query_seconds: float
    pool_degraded_at: float
    pool_unhealthy_at: float | None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slow_query_seconds) and self.slow_query_seconds > 0):
            raise ValueError(
                f"slow_query_threshold: seconds must be finite and above 0, not {self.slow_query_seconds:g}."
            )
        for name in ("pool_degraded_at", "pool_unhealthy_at"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise ValueError(f"{name} is a share of the pool, above 0 and at most 1, not {share:g}.")


def measured(measurement: Measurement, thresholds: Thresholds) -> list[HealthCheckResult]:
    """The server answered: it is reachable, and quick or slow."""
    connect_ms = milliseconds(measurement.connect_seconds)
    query_ms = milliseconds(measurement.query_seconds)
    facts = dict(measurement.facts)
    is_slow = measurement.query_seconds >= thresholds.slow_query_seconds
    limit_ms = milliseconds(thresholds.slow_query_seconds)
    return [
        HealthCheckResult(
            HealthStatus.HEALTHY,
            "The server answers.",
            round(connect_ms + query_ms, 3),
            CONNECTIVITY,
            {"connect_ms": connect_ms, **facts},
        ),
        HealthCheckResult(HealthStatus.HEALTHY, "A query was answered.", query_ms, QUERY, facts),
        HealthCheckResult(
            HealthStatus.DEGRADED if is_slow else HealthStatus.HEALTHY,
            f"A query took {query_ms:g} ms; {limit_ms:g} ms or more is slow."
            if is_slow
            else "Queries are quick.",
            query_ms,
            PERFORMANCE,
            {"query_ms": query_ms, "slow_query_threshold_ms": limit_ms},
        ),
    ]


def failed(error: Exception | str, seconds: float) -> list[HealthCheckResult]:
    """The server did not answer, or the session cannot ask: how quick it is, is not known."""
    message = error if isinstance(error, str) else reason_of(error)
    took = milliseconds(seconds)
    return [
        HealthCheckResult(HealthStatus.UNHEALTHY, message, took, CONNECTIVITY),
        HealthCheckResult(HealthStatus.UNHEALTHY, message, took, QUERY),
        HealthCheckResult(HealthStatus.UNKNOWN, "Nothing could be measured.", took, PERFORMANCE),
    ]


def pool_result(engine: Engine, thresholds: Thresholds) -> HealthCheckResult:
    """How much of the pool is in use. No I/O."""
    pool: Any = engine.pool
    kind = type(pool).__name__.lstrip("_")
    if not isinstance(pool, pools.QueuePool):
        return HealthCheckResult(
            HealthStatus.HEALTHY, "This pool has no limit to reach.", name=POOL, details={"kind": kind}
        )
    size, in_use, most = pool.size(), pool.checkedout(), pool._max_overflow  # noqa: SLF001 - no public name
    details: dict[str, Any] = {
        "kind": kind,
        "size": size,
        "checked_out": in_use,
        "checked_in": pool.checkedin(),
        "overflow": max(0, pool.overflow()),
        "max_overflow": most,
    }
    # A size of 0 and an overflow of -1 mean that there is no limit.
    if size == 0 or most < 0:
        return HealthCheckResult(
            HealthStatus.HEALTHY, "This pool has no limit to reach.", name=POOL, details=details
        )
    capacity = size + most
    share = in_use / capacity
    details |= {"capacity": capacity, "saturation": round(share, 3)}
    status = HealthStatus.HEALTHY
    if capacity == 1 and engine.dialect.name == "sqlite":
        # A memory database has one connection, which is in use whenever it is used.
        return HealthCheckResult(status, "One connection is shared in turns.", name=POOL, details=details)
    if thresholds.pool_unhealthy_at is not None and share >= thresholds.pool_unhealthy_at:
        status = HealthStatus.UNHEALTHY
    elif share >= thresholds.pool_degraded_at:
        status = HealthStatus.DEGRADED
    return HealthCheckResult(
        status, f"{in_use} of {capacity} connections are in use.", name=POOL, details=details
    )


def milliseconds(seconds: float) -> float:
    """Seconds in milliseconds, to the microsecond."""
    return round(seconds * 1000, 3)
