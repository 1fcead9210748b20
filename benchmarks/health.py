"""What a health check of a live engine costs, beside a SELECT 1 that takes a connection from the pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.harness import Case
from sqlalchemy import text

from dotmac.database import DatabaseHealthChecker, HealthStatus

if TYPE_CHECKING:
    from benchmarks.cases import Bench


def build(bench: Bench) -> list[Case]:
    """One check, all its parts included."""
    checker = DatabaseHealthChecker()

    async def plain(n: int) -> None:
        for _ in range(n):
            async with bench.engine.connect() as connection:
                await connection.execute(text("SELECT 1"))

    async def ours(n: int) -> None:
        for _ in range(n):
            result = await checker.check_health(bench.engine)
            assert result.status is HealthStatus.HEALTHY

    contenders = {"plain SELECT 1 from the pool": plain, "dotmac": ours}
    return [Case("health check (bar: 5 ms)", contenders, times=50)]
