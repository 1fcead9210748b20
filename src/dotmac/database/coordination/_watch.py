"""Look after a lock while its block runs: a check every so often, which costs a timer until the first is due."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Watch:
    """Runs ``check`` after ``interval`` seconds, and again and again while it returns True."""

    def __init__(self, interval: float, check: Callable[[], Awaitable[bool]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._interval = interval
        self._check = check
        self._task: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(interval, self._begin)

    async def stop(self, *, cut_short: bool) -> None:
        """End it. A check under way is cancelled if ``cut_short``, else waited for."""
        self._timer.cancel()
        task, self._task = self._task, None
        if task is None or task.done():
            return
        if cut_short:
            task.cancel()
        await asyncio.wait({task})

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        if await self._check():
            self._timer = self._loop.call_later(self._interval, self._begin)
