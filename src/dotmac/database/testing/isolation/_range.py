"""Rows of two tenants for the length of a test run, and one event loop for async sessions."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from dotmac.database.testing.isolation._report import outcomes
from dotmac.database.testing.isolation._trial import clear, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dotmac.database.testing.isolation._attack import Attack
    from dotmac.database.testing.isolation._subject import Values
    from dotmac.database.testing.isolation._trial import Administrator, Outcome


@contextmanager
def firing_range(
    sessions: Callable[[], Any], models: list[type[Any]], administrator: Administrator, values: Values
) -> Iterator[Callable[[Attack], list[Outcome]]]:
    """Inside the block: a function that tries an attack on each model."""
    is_async = not isinstance(sessions(), Session)
    with asyncio.Runner() as runner:

        def call(work: Callable[[], Any]) -> Any:
            return runner.run(_carried(sessions, work)) if is_async else work()

        trial = call(lambda: prepare(sessions, models, administrator, values=values))
        try:
            yield lambda attack: call(lambda: outcomes(trial, attack))
        finally:
            call(lambda: clear(trial))


async def _carried(sessions: Callable[[], Any], work: Callable[[], Any]) -> Any:
    async with sessions() as carrier:
        return await carrier.run_sync(lambda _: work())
