"""Checks that an application adds: run under a deadline, one at a time each, and their errors never quoted.

A plain function runs in a thread of its own, so that one that hangs is left behind; while it still runs, its check is
unhealthy and it is not started again. A coroutine function runs on the event loop and is cancelled at the deadline.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, quote_plus

from dotmac.database.health._monitor import run_in_thread
from dotmac.database.health._result import HIDDEN, HealthCheckResult, HealthStatus, each_text
from dotmac.database.health._verdicts import milliseconds

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

Outcome: TypeAlias = HealthCheckResult | HealthStatus | bool | None
Check: TypeAlias = Callable[[Any], Outcome | Awaitable[Outcome]]

_UNHEALTHY, _UNKNOWN = HealthStatus.UNHEALTHY, HealthStatus.UNKNOWN


class CustomCheck:
    """One added check, under the name by which its result is found."""

    def __init__(self, name: str, function: Check) -> None:
        self.name = name
        self._function = function
        self._is_coroutine = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - an object whose call is a coroutine method
        )
        self._running = threading.Lock()

    def start(self, target: object) -> Future[object]:
        """Begin it in a thread; the future holds what it returned or raised."""
        future: Future[object] = Future()
        future.set_running_or_notify_cancel()
        if self._is_coroutine:
            future.set_result((_UNKNOWN, "It is a coroutine function, and runs with asyncio targets only."))
        elif not self._running.acquire(blocking=False):
            future.set_result((_UNHEALTHY, "It is still running since an earlier check."))
        else:
            run_in_thread(lambda: self._work(target, future))
        return future

    def _work(self, target: object, future: Future[object]) -> None:
        try:
            found: object = self._function(target)
        except BaseException as error:  # noqa: BLE001 - that it fails is what a check is for
            self._running.release()
            future.set_exception(error)
        else:
            self._running.release()
            future.set_result(found)

    def wait(self, future: Future[object], seconds: float, url: URL) -> HealthCheckResult:
        """The result of what `start` began, after ``seconds`` at most."""
        began = time.perf_counter()
        try:
            found = future.result(max(0.0, seconds))
        except BaseException as error:
            if not future.done() and not isinstance(error, TimeoutError):
                raise
            found = _late(seconds) if not future.done() else _failure(error)
        return self._result(found, began, url)

    async def run(self, target: object, seconds: float, url: URL) -> HealthCheckResult:
        """Run it on the event loop, or in a thread if it is a plain function."""
        began = time.perf_counter()
        work = (
            asyncio.ensure_future(self._awaited(target))
            if self._is_coroutine
            else asyncio.wrap_future(self.start(target))
        )
        try:
            done, _ = await asyncio.wait({work}, timeout=seconds)
        finally:
            work.cancel()
        if not done:
            # One that refuses to be cancelled is left behind.
            await asyncio.wait({work}, timeout=0)
            found: object = _late(seconds)
        elif work.cancelled():
            found = _failure(asyncio.CancelledError())
        else:
            error = work.exception()
            found = work.result() if error is None else _failure(error)
        return self._result(found, began, url)

    async def _awaited(self, target: object) -> object:
        found: Any = self._function(target)
        return await found

    def _result(self, found: object, began: float, url: URL) -> HealthCheckResult:
        took = milliseconds(time.perf_counter() - began)
        if found is None or isinstance(found, bool):
            found = HealthStatus.UNHEALTHY if found is False else HealthStatus.HEALTHY
        if isinstance(found, HealthStatus):
            found = (found, "It passed." if found is HealthStatus.HEALTHY else f"It said {found}.")
        if isinstance(found, HealthCheckResult):
            return _without(replace(found, name=self.name, duration_ms=found.duration_ms or took), url)
        match found:
            case (HealthStatus() as status, str(message)):
                return _without(HealthCheckResult(status, message, took, self.name), url)
        return HealthCheckResult(
            HealthStatus.UNKNOWN,
            f"It returned {type(found).__name__}; a check returns a HealthStatus, a HealthCheckResult, (status, message),"
            f" True, False or None.",
            took,
            self.name,
        )


def _late(seconds: float) -> tuple[HealthStatus, str]:
    return _UNHEALTHY, f"It did not end within {max(0.0, seconds):.3g} s."


def _failure(error: BaseException) -> tuple[HealthStatus, str]:
    return _UNHEALTHY, f"It failed with {type(error).__name__}."


def _without(result: HealthCheckResult, url: URL) -> HealthCheckResult:
    """``result`` without the parts of ``url`` that say where the database is and who may use it."""
    password = url.password or ""
    patterns = [
        re.escape(text) for text in {password, quote(password, safe=""), quote_plus(password)} if text
    ]
    patterns += [rf"(?<!\w){re.escape(text)}(?!\w)" for text in (url.host, url.username) if text]
    if not patterns:
        return result
    hide = re.compile("|".join(sorted(patterns, key=len, reverse=True)))

    def hidden(text: str) -> str:
        return hide.sub(HIDDEN, text)

    return replace(result, message=hidden(result.message), details=each_text(dict(result.details), hidden))
