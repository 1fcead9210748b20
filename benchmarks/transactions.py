"""What transactions, retries and breakers cost: against a bare session.begin(), and against a bare call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.harness import Case
from sqlalchemy import text

from dotmac.database import CircuitBreaker, DatabaseTransaction, RetryPolicy, TransactionManager, with_retry

if TYPE_CHECKING:
    from benchmarks.cases import Bench
    from sqlalchemy.ext.asyncio import AsyncSession

_INSERT = text(
    "INSERT INTO tickets (id, title, status, priority) VALUES (gen_random_uuid(), 'filler', 'filler', 0)"
)


def build(bench: Bench) -> list[Case]:
    """One INSERT in a transaction; then the bare cost of a call through a decorator, in microseconds of CPU."""
    return [_one_insert(bench), *_calls()]


def _one_insert(bench: Bench) -> Case:
    sessions = bench.sessions
    manager, sure = TransactionManager(sessions), TransactionManager(sessions, track_outcome=True)

    async def insert(session: AsyncSession) -> None:
        await session.execute(_INSERT)

    async def plain(n: int) -> None:
        for _ in range(n):
            async with sessions() as session, session.begin():
                await insert(session)

    async def ours(n: int) -> None:
        for _ in range(n):
            await manager.async_execute_with_retry(insert)

    async def block(n: int) -> None:
        for _ in range(n):
            async with sessions() as session, DatabaseTransaction.async_transaction(session):
                await insert(session)

    async def tracked(n: int) -> None:
        for _ in range(n):
            await sure.async_execute_with_retry(insert)

    async def clean() -> None:
        await bench.raw.execute("DELETE FROM tickets WHERE status = 'filler'")

    contenders = {
        "plain session.begin()": plain,
        "dotmac": ours,
        "dotmac, as a block": block,
        "dotmac, track_outcome": tracked,
    }
    return Case("transaction of one INSERT", contenders, times=100, bar=1.05, after=clean)


def _calls() -> list[Case]:
    """Each contender adds its cost to a bare call of a function that does nothing: compare the differences."""

    def nothing() -> None:
        return None

    retried = with_retry(RetryPolicy(), idempotent=True)(nothing)
    guarded = CircuitBreaker()(nothing)
    breaker = CircuitBreaker()

    async def bare(n: int) -> None:
        for _ in range(n):
            nothing()

    async def through_retry(n: int) -> None:
        for _ in range(n):
            retried()

    async def through_breaker(n: int) -> None:
        for _ in range(n):
            guarded()

    async def in_breaker(n: int) -> None:
        for _ in range(n):
            with breaker:
                nothing()

    return [
        Case(
            "call: nothing, with_retry, breaker",
            {
                "plain call": bare,
                "with_retry (bar: 2 us)": through_retry,
                "breaker, closed (bar: 1 us)": through_breaker,
                "with breaker:": in_breaker,
            },
            times=20_000,
            clock="cpu",
        )
    ]
