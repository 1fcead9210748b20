"""Is the database well? One checker for blocking and asyncio targets, which answers in time whatever the server does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar, overload

from dotmac.database.health._attempt import Limits, Measurement
from dotmac.database.health._custom import Check, CustomCheck
from dotmac.database.health._monitor import probe, probe_async
from dotmac.database.health._result import HealthCheckResult, together
from dotmac.database.health._session_probe import probe_connection, probe_connection_async
from dotmac.database.health._target import Subject, is_async_target, subject_of
from dotmac.database.health._verdicts import (
    BUILT_IN,
    CONNECTIVITY,
    PERFORMANCE,
    QUERY,
    Thresholds,
    failed,
    measured,
    milliseconds,
    pool_result,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from dotmac.database.health._target import AsyncTarget, SyncTarget, Target

    _Later = Coroutine[Any, Any, HealthCheckResult]

_Function = TypeVar("_Function", bound=Check)


class DatabaseHealthChecker:
    """Checks a Session, Engine or Database; or an AsyncSession, AsyncEngine or AsyncDatabase, when awaited.

    An engine is looked at through one connection of the checker's own, kept until the engine is disposed: no slot of
    its pool is taken, and a full pool hides nothing. A session in a transaction is asked on its own connection, and
    that transaction is left as it is; outside a transaction it stands for its engine.

    No check raises because of the server, and none takes longer than its deadline.

    Args:
        connection_timeout: Seconds in which there must be a connection.
        query_timeout: Seconds in which a query must be answered; also for each added check.
        slow_query_threshold: Seconds from which a query is slow, and the database degraded.
        total_timeout: Seconds for one check as a whole; by default the first two together.
        pool_degraded_at: Share of the pool in use from which it is degraded, of 1.
        pool_unhealthy_at: The same for unhealthy; None for never.

    Example:
        >>> from dotmac.database import Database
        >>> with Database("sqlite:///:memory:") as database:
        ...     print(DatabaseHealthChecker().check_health(database).status)
        healthy

    Raises:
        TypeError: A time is not a number.
        ValueError: A time or share makes no sense.
    """

    def __init__(
        self,
        connection_timeout: float = 5.0,
        query_timeout: float = 10.0,
        slow_query_threshold: float = 1.0,
        *,
        total_timeout: float | None = None,
        pool_degraded_at: float = 0.9,
        pool_unhealthy_at: float | None = None,
    ) -> None:
        both = connection_timeout + query_timeout
        self._limits = Limits(
            connection_timeout, query_timeout, both if total_timeout is None else total_timeout
        )
        self._thresholds = Thresholds(slow_query_threshold, pool_degraded_at, pool_unhealthy_at)
        self._custom: dict[str, CustomCheck] = {}

    def add_check(self, name: str, check: _Function) -> _Function:
        """Let `check_health` run ``check`` too, with the target it was given; returns ``check``.

        It returns a `HealthStatus`, a `HealthCheckResult`, ``(status, message)``, True, False, or None for healthy.
        Raising is unhealthy, and only the error's class is told. A coroutine function runs with asyncio targets; a
        plain function runs in a thread of its own. One that is given a session must not keep using it after
        ``query_timeout``.

        Raises:
            ValueError: The name is blank, built in or taken.
        """
        if not name.strip() or name in BUILT_IN or name in self._custom:
            raise ValueError(
                f"{name!r} cannot name a check: {', '.join(BUILT_IN)} are built in, and each name is used once."
            )
        self._custom[name] = CustomCheck(name, check)
        return check

    @overload
    def check_health(self, target: SyncTarget) -> HealthCheckResult: ...
    @overload
    def check_health(self, target: AsyncTarget) -> _Later: ...
    def check_health(self, target: Target) -> HealthCheckResult | _Later:
        """Everything at once, in one round trip: the worst status, and each result under ``checks``."""
        return self._all_later(target) if is_async_target(target) else self._all(target)

    @overload
    def check_connectivity(self, target: SyncTarget) -> HealthCheckResult: ...
    @overload
    def check_connectivity(self, target: AsyncTarget) -> _Later: ...
    def check_connectivity(self, target: Target) -> HealthCheckResult | _Later:
        """Whether the server can be reached and answers."""
        return self._one(target, CONNECTIVITY)

    @overload
    def check_query(self, target: SyncTarget) -> HealthCheckResult: ...
    @overload
    def check_query(self, target: AsyncTarget) -> _Later: ...
    def check_query(self, target: Target) -> HealthCheckResult | _Later:
        """Whether a query is answered; ``details`` tell whether the server is in recovery or read-only."""
        return self._one(target, QUERY)

    @overload
    def check_performance(self, target: SyncTarget) -> HealthCheckResult: ...
    @overload
    def check_performance(self, target: AsyncTarget) -> _Later: ...
    def check_performance(self, target: Target) -> HealthCheckResult | _Later:
        """Whether a query is answered quickly enough."""
        return self._one(target, PERFORMANCE)

    @overload
    def check_pool(self, target: SyncTarget) -> HealthCheckResult: ...
    @overload
    def check_pool(self, target: AsyncTarget) -> _Later: ...
    def check_pool(self, target: Target) -> HealthCheckResult | _Later:
        """How much of the connection pool is in use. Asks no server."""
        if is_async_target(target):
            return self._pool_later(target)
        return pool_result(subject_of(target).engine, self._thresholds)

    def _one(self, target: Target, name: str) -> HealthCheckResult | _Later:
        if is_async_target(target):
            return self._one_later(target, name)
        return _named(name, self._measure(subject_of(target)))

    async def _one_later(self, target: Target, name: str) -> HealthCheckResult:
        return _named(name, await self._measure_later(subject_of(target)))

    async def _pool_later(self, target: Target) -> HealthCheckResult:
        return pool_result(subject_of(target).engine, self._thresholds)

    def _all(self, target: Target) -> HealthCheckResult:
        began = time.perf_counter()
        subject = subject_of(target)
        results = [*self._measure(subject), pool_result(subject.engine, self._thresholds)]
        # The ones added come after ours: a session serves one thread at a time.
        url = subject.engine.url
        for check in list(self._custom.values()):
            left = self._seconds_left(began)
            results.append(check.wait(check.start(target), left, url))
        return together(results, milliseconds(time.perf_counter() - began))

    async def _all_later(self, target: Target) -> HealthCheckResult:
        began = time.perf_counter()
        subject = subject_of(target)
        results = [*await self._measure_later(subject), pool_result(subject.engine, self._thresholds)]
        url = subject.engine.url
        results += [
            await check.run(target, self._seconds_left(began), url) for check in list(self._custom.values())
        ]
        return together(results, milliseconds(time.perf_counter() - began))

    def _seconds_left(self, began: float) -> float:
        return max(0.0, min(self._limits.query, began + self._limits.total - time.perf_counter()))

    def _measure(self, subject: Subject) -> list[HealthCheckResult]:
        began = time.perf_counter()
        if subject.complaint is not None:
            return failed(subject.complaint, 0.0)
        try:
            found = (
                probe(subject.engine, self._limits)
                if subject.connection is None
                else probe_connection(subject.connection, self._limits)
            )
        except Exception as error:  # noqa: BLE001 - whatever the reason, it does not answer
            return failed(error, time.perf_counter() - began)
        return measured(found, self._thresholds)

    async def _measure_later(self, subject: Subject) -> list[HealthCheckResult]:
        began = time.perf_counter()
        if subject.complaint is not None:
            return failed(subject.complaint, 0.0)
        try:
            found: Measurement = (
                await probe_async(subject.engine, self._limits)
                if subject.connection is None
                else await probe_connection_async(subject.connection, self._limits)
            )
        except Exception as error:  # noqa: BLE001 - whatever the reason, it does not answer
            return failed(error, time.perf_counter() - began)
        return measured(found, self._thresholds)


def _named(name: str, results: list[HealthCheckResult]) -> HealthCheckResult:
    return next(result for result in results if result.name == name)
