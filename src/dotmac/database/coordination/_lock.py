"""What every lock is to the block under it: had or not, still held or lost, and an end that never lies."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self, TypeVar

from dotmac.database.coordination._names import in_seconds
from dotmac.database.errors import LockError, LockLostError, LockNotHeldError

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

    from dotmac.database.coordination._names import Seconds

logger = logging.getLogger("dotmac.database.coordination")

_T = TypeVar("_T")
_going_on: set[asyncio.Future[Any]] = set()


class Lock(ABC):
    """A lock as an async context manager; one object guards one block at a time, and may be used again.

    Attributes:
        acquired: True in a block that got the lock, also after it was lost.
        lost: Set the moment it is known that the lock ended before the block did. Await it, or ask ``is_set()``.
    """

    acquired: bool
    lost: asyncio.Event

    def __init__(self, *, wait: Seconds, cancel_when_lost: bool) -> None:
        self.acquired = False
        self.lost = asyncio.Event()
        self._wait = in_seconds(wait, "wait", minimum=0, endless=True)
        self._cancel_when_lost = cancel_when_lost
        self._fence: int | None = None
        self._why_lost = ""
        self._is_used = False
        self._body: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._interrupted = False

    @property
    def held(self) -> bool:
        """True as long as the block has the lock, as far as this process can know.

        A process that was stopped and goes on may be wrong for a moment. What must not be wrong needs the fencing token.
        """
        return self._is_used and self.acquired and not self.lost.is_set()

    @property
    def fencing_token(self) -> int:
        """A number that grows with every holder: give it to the resource, which refuses what is below the highest seen.

        Raises:
            LockNotHeldError: The lock was not acquired, or gives no such number.
        """
        if not self.acquired or self._fence is None:
            raise LockNotHeldError(f"{self._label()} {self._without_a_fence()}")
        return self._fence

    async def __aenter__(self) -> Self:
        if self._is_used:
            raise LockError(
                f"{self._label()} is in use already: one object guards one block at a time. Make another one with the "
                f"same name; it excludes this one."
            )
        self._is_used = True
        self.acquired, self._fence, self._why_lost = False, None, ""
        self.lost.clear()
        self._interrupted = False
        try:
            self.acquired = await self._acquire()
        except BaseException:
            self._is_used = False
            raise
        if self.acquired:
            self._body = asyncio.current_task()
            self._cancelling = 0 if self._body is None else self._body.cancelling()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        body, self._body = self._body, None
        if not self.acquired:
            self._is_used = False
            return
        late: asyncio.CancelledError | None = None
        if self._interrupted and not isinstance(error, asyncio.CancelledError):
            late = await _pending_cancellation()
        try:
            await self._release()
        finally:
            self._is_used = False
        if self._interrupted and body is not None:
            is_only_ours = body.uncancel() <= self._cancelling
            if late is not None and not is_only_ours:
                raise late
            if is_only_ours and isinstance(error, asyncio.CancelledError):
                raise self._lost_error() from error
        if self.lost.is_set():
            if error is None:
                raise self._lost_error()
            error.add_note(f"{self._label()} was lost before this: {self._why_lost}.")

    @abstractmethod
    def _label(self) -> str:
        """How messages call this lock."""

    @abstractmethod
    async def _acquire(self) -> bool:
        """Take the lock, waiting as long as was asked for; leave nothing behind when it fails or is cancelled."""

    @abstractmethod
    async def _release(self) -> None:
        """Give the lock back, to the end even when cancelled; call `_lose` if it was gone already."""

    def _without_a_fence(self) -> str:
        return "was not acquired, so there is no fencing token: ask `acquired` first."

    def _lost_error(self) -> LockLostError:
        return LockLostError(
            f"{self._label()} was lost before the block ended: {self._why_lost}. Somebody else may have worked at the "
            f"same time. Check what was done; only a fencing token at the resource, or the database's own transaction, "
            f"keeps late writes out."
        )

    def _lose(self, why: str) -> None:
        if self.lost.is_set():
            return
        self._why_lost = why
        self.lost.set()
        logger.warning("%s was lost: %s.", self._label(), why)
        if self._cancel_when_lost and self._body is not None:
            self._interrupted = True
            self._body.cancel(f"{self._label()} was lost: {why}")


async def _pending_cancellation() -> asyncio.CancelledError | None:
    """Take delivery of a cancellation that was asked for when the block had ended already (bpo: Task.uncancel)."""
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError as error:
        return error
    return None


async def to_the_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Await ``work``; a cancellation neither cuts it short nor is lost: it is raised when the work is done.

    Cancelled a second time, the work goes on without anybody waiting for it.
    """
    task = asyncio.ensure_future(work)
    _going_on.add(task)
    task.add_done_callback(_gone)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait({task})
        raise


def _gone(task: asyncio.Future[Any]) -> None:
    _going_on.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.debug("Work that was to be done to the end failed.", exc_info=error)
