"""No more than so many sessions of one tenant at once in this process; the next ones wait in line, and not for ever.

Thread-safe, and the same line for every event loop and thread that uses one directory.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING

from dotmac.database.errors import QuotaExceededError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from types import TracebackType


class _Turn:
    """A place in the line."""

    __slots__ = ("is_granted", "wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.is_granted = False
        self.wake = wake


class _Gate:
    __slots__ = ("line", "open")

    def __init__(self) -> None:
        self.open = 0
        self.line: deque[_Turn] = deque()


class Admission:
    """Counts the open sessions of every tenant that has a quota of them."""

    def __init__(self, timeout: timedelta) -> None:
        self._timeout_seconds = timeout.total_seconds()
        self._lock = threading.Lock()
        self._gates: dict[str, _Gate] = {}

    async def enter(self, tenant: str, limit: int) -> None:
        """Wait for a place.

        Raises:
            QuotaExceededError: None became free in time.
        """
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        turn = self._place_or_turn(tenant, limit, lambda: loop.call_soon_threadsafe(woken.set))
        if turn is None:
            return
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await woken.wait()
        except BaseException as error:
            was_granted = self._gave_up(tenant, turn)
            if not isinstance(error, TimeoutError):
                if was_granted:
                    self.leave(tenant)
                raise
            if not was_granted:  # else at the last moment
                raise self._refusal(tenant, limit) from None

    def enter_blocking(self, tenant: str, limit: int) -> None:
        """Same as `enter`, blocking."""
        woken = threading.Event()
        turn = self._place_or_turn(tenant, limit, woken.set)
        if turn is None:
            return
        try:
            woken.wait(self._timeout_seconds)
        except BaseException:
            if self._gave_up(tenant, turn):
                self.leave(tenant)
            raise
        if not self._gave_up(tenant, turn):
            raise self._refusal(tenant, limit)

    def leave(self, tenant: str) -> None:
        """Give the place to the next in line."""
        with self._lock:
            gate = self._gates[tenant]
            while gate.line:
                turn = gate.line.popleft()
                turn.is_granted = True
                try:
                    turn.wake()
                except RuntimeError:  # its event loop is closed: it waits no longer
                    turn.is_granted = False
                    continue
                return
            gate.open -= 1
            if not gate.open:
                del self._gates[tenant]

    def open_sessions(self, tenant: str) -> int:
        """How many places are taken."""
        with self._lock:
            gate = self._gates.get(tenant)
            return 0 if gate is None else gate.open

    def _place_or_turn(self, tenant: str, limit: int, wake: Callable[[], object]) -> _Turn | None:
        with self._lock:
            gate = self._gates.setdefault(tenant, _Gate())
            if gate.open < limit and not gate.line:
                gate.open += 1
                return None
            turn = _Turn(wake)
            gate.line.append(turn)
            return turn

    def _gave_up(self, tenant: str, turn: _Turn) -> bool:
        """Leave the line; True if the place had been granted already."""
        with self._lock:
            gate = self._gates.get(tenant)
            if not turn.is_granted and gate is not None and turn in gate.line:
                gate.line.remove(turn)
            return turn.is_granted

    def _refusal(self, tenant: str, limit: int) -> QuotaExceededError:
        return QuotaExceededError(
            tenant=tenant,
            quota="connections",
            limit=limit,
            hint=f"No session of it ended within {self._timeout_seconds:g} s. Keep sessions short, or raise the quota.",
        )


class Admitted:
    """A place for one session, as a context manager of either kind."""

    __slots__ = ("_admission", "_limit", "_tenant")

    def __init__(self, admission: Admission, tenant: str, limit: int | None) -> None:
        self._admission = admission
        self._tenant = tenant
        self._limit = limit

    async def __aenter__(self) -> None:
        if self._limit is not None:
            await self._admission.enter(self._tenant, self._limit)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._limit is not None:
            self._admission.leave(self._tenant)

    def __enter__(self) -> None:
        if self._limit is not None:
            self._admission.enter_blocking(self._tenant, self._limit)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._limit is not None:
            self._admission.leave(self._tenant)
