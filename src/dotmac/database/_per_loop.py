"""What belongs to one event loop: made on first use there, closed when that loop shuts down.

A driver's connection belongs to the loop it was opened on. So each running loop has its own, and a second
``asyncio.run`` never meets the first one's.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable


class LoopBound(Protocol):
    """Something made for one event loop."""

    async def close(self) -> None:
        """Close it, on its loop."""
        ...

    def abandon(self) -> None:
        """Let go of what is left of it, after its loop ended without shutting down."""
        ...


Part = TypeVar("Part", bound=LoopBound)


class PerLoop(Generic[Part]):
    """One ``Part`` for each event loop.

    Args:
        make: Makes the running loop's.
    """

    def __init__(self, make: Callable[[], Part]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._held: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Held[Part]] = (
            weakref.WeakKeyDictionary()
        )

    def current(self) -> Part:
        """The running loop's.

        Raises:
            RuntimeError: No event loop runs here.
        """
        loop = asyncio.get_running_loop()
        held = self._held.get(loop)
        if held is None:
            with self._lock:
                for ended in [known for known in self._held if known.is_closed()]:
                    self._held.pop(ended).part.abandon()
                held = self._held[loop] = _Held(self._make())
                held.close_with(loop, self._held)
        return held.part

    def __len__(self) -> int:
        """For how many loops there is one."""
        return len(self._held)

    def existing(self) -> Part | None:
        """The running loop's, if it was made."""
        held = self._held.get(asyncio.get_running_loop())
        return None if held is None else held.part

    async def close(self) -> None:
        """Close the running loop's; the next use makes another."""
        with self._lock:
            held = self._held.pop(asyncio.get_running_loop(), None)
        if held is not None and held.at_shutdown is not None:
            await held.at_shutdown.aclose()


class _Held(Generic[Part]):
    def __init__(self, part: Part) -> None:
        self.part = part
        self.at_shutdown: AsyncGenerator[None, None] | None = None

    def close_with(
        self,
        loop: asyncio.AbstractEventLoop,
        held: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Held[Part]],
    ) -> None:
        """Close when ``loop`` shuts down.

        A loop closes its suspended async generators before it ends, while it can still close connections
        (PEP 525). Starting one, up to its yield, needs no await.
        """

        async def wait_for_shutdown() -> AsyncGenerator[None, None]:
            try:
                yield
            finally:
                held.pop(loop, None)
                await self.part.close()

        self.at_shutdown = wait_for_shutdown()
        with suppress(StopIteration):
            self.at_shutdown.asend(None).send(None)
