"""Coherence of the copies that processes keep in memory: who changes something knows when nobody has the old value.

A *member* is an event loop that serves copies. It may do so for two seconds after it last knew that it had heard everything:
it notes in Redis until when it may serve, then sends PING on its subscription, whose answer comes after all that was
published before. Who changes something publishes it, and waits for the acknowledgement of every member that is noted; one
that does not answer (killed, cut off) serves no copies after the time that is noted, so that is waited for at most. These
are leases as in Gray and Cheriton, "Leases: An Efficient Fault-Tolerant Mechanism for Distributed File Cache Consistency"
(SOSP 1989).
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson

from dotmac.database.caching import _scripts
from dotmac.database.caching._exchange import CacheUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dotmac.database.caching._exchange import Exchange
    from dotmac.database.caching._link import Link
    from dotmac.database.caching._memory import Memory
    from dotmac.database.caching._signals import Signals

_logger = logging.getLogger("dotmac.database.caching")
_LEASE_SECONDS = 2.0
_SERVED_SHARE = 0.9  # clocks run at slightly different speeds
_UNKNOWN = 2
_RENEWALS = 4
_EXCHANGE_SECONDS = 1.0


class Copies:
    """One event loop's part in the coherence of one prefix.

    Args:
        link: How Redis is reached.
        members_key: Where members are noted; also names the channel.

    Attributes:
        served_until: Copies may be served before this time (monotonic seconds).
        foreign: How many messages came that no cache sends; they are ignored.
    """

    def __init__(self, link: Link, members_key: str) -> None:
        self._link = link
        self._exchange: Exchange = link.exchange
        self._signals: Signals = link.signals
        self._members_key = members_key
        self._name = uuid.uuid4().hex
        self._memories: weakref.WeakSet[Memory] = weakref.WeakSet()
        self._keeper: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._serves = asyncio.Event()
        self._numbers = 0
        self._waiting: dict[int, _Acknowledgements] = {}
        self._hears_acknowledgements = False
        self._hearing = asyncio.Lock()
        self.served_until = 0.0
        self.foreign = 0

    def keep(self, memory: Memory) -> None:
        """Keep ``memory`` coherent from now on."""
        self._memories.add(memory)
        if self._keeper is None or self._keeper.done():
            self._keeper = self._link.start(self._stay_member(), "dotmac-cache-copies")

    async def serves(self) -> None:
        """Return when copies are served."""
        await self._serves.wait()

    def drop(self, keys: Iterable[str] | None, scope: str) -> None:
        """Forget keys, or all of a scope, in this event loop."""
        for memory in self._memories:
            if keys is None:
                memory.drop_scope(scope)
            else:
                memory.drop(keys)

    async def changed(self, keys: list[str] | None, scope: str, mark: int) -> None:
        """Forget copies here, and, if ``mark`` says that there may be some, `announce`.

        Raises:
            CacheUnavailableError: Redis could not be told.
        """
        if mark == _UNKNOWN:
            keys = None
            if not await self._exchange.command(_EXCHANGE_SECONDS, "EXISTS", self._members_key):
                mark = 0
        self.drop(keys, scope)
        if mark:
            await self.announce(keys, scope)

    async def announce(self, keys: list[str] | None, scope: str) -> None:
        """Return when no process serves a copy of these keys (or, for None, of this scope) any more.

        One round trip, and one message each way for every other process that keeps copies; up to two seconds when one of
        them died within the last two.

        Raises:
            CacheUnavailableError: Redis could not be told.
        """
        await self._hear_acknowledgements()
        self._numbers += 1
        number = self._numbers
        waiting = self._waiting[number] = _Acknowledgements()
        message = orjson.dumps(
            {"from": self._name, "number": number, "scope": scope, "keys": keys},
        )
        try:
            answer = await self._exchange.run(
                _EXCHANGE_SECONDS, _scripts.ANNOUNCE, (self._members_key,), self._channel, message
            )
            others = {
                bytes(name).decode(): int(left) / 1000
                for name, left in zip(answer[::2], answer[1::2], strict=True)
                if bytes(name).decode() != self._name
            }
            await waiting.of_all(others)
        finally:
            del self._waiting[number]

    @property
    def _channel(self) -> str:
        return f"{self._members_key}:changes"

    def _answers_to(self, name: str) -> str:
        return f"{self._members_key}:heard:{name}"

    async def _hear_acknowledgements(self) -> None:
        async with self._hearing:
            if not self._hears_acknowledgements:
                await self._signals.subscribe(
                    self._answers_to(self._name), _EXCHANGE_SECONDS, self._on_acknowledgement
                )
                self._hears_acknowledgements = True

    def _on_acknowledgement(self, message: bytes | None) -> None:
        if message is None:  # lost: from now on only time tells
            self._hears_acknowledgements = False
            return
        try:
            number, _, name = message.decode().partition(":")
            waiting = self._waiting.get(int(number))
        except ValueError:
            self._note_foreign()
            return
        if waiting is not None:
            waiting.came_from(name)

    def _on_change(self, message: bytes | None) -> None:
        if message is None:
            self._serve_none()
            return
        try:
            change: dict[str, Any] = orjson.loads(message)
            name, number = str(change["from"]), int(change["number"])
            self.drop(change["keys"], change["scope"])
        except (ValueError, TypeError, KeyError):
            self._note_foreign()
            return
        if name != self._name:
            self._link.start(self._acknowledge(name, number), "dotmac-cache-heard")

    def _note_foreign(self) -> None:
        """Somebody else publishes on our channels: nothing that we wait for."""
        self.foreign += 1
        if self.foreign == 1:
            _logger.warning("What is no message of a cache came over %s; it is ignored.", self._members_key)

    async def _acknowledge(self, name: str, number: int) -> None:
        with suppress(CacheUnavailableError):  # then it waits for our lease to end
            await self._exchange.command(
                _EXCHANGE_SECONDS, "PUBLISH", self._answers_to(name), f"{number}:{self._name}"
            )

    def _serve_none(self) -> None:
        self.served_until = 0.0
        self._serves.clear()
        self._lost.set()
        for memory in self._memories:
            memory.outdate()

    async def _stay_member(self) -> None:
        try:
            while self._memories and not _is_cancelled():
                self._lost.clear()
                try:
                    await self._be_member()
                except CacheUnavailableError:
                    self._serve_none()
                    await asyncio.sleep(_LEASE_SECONDS / _RENEWALS)
        finally:
            self._serve_none()
            await self._signals.unsubscribe(self._channel, self._on_change)
            with suppress(CacheUnavailableError):
                await self._exchange.command(_EXCHANGE_SECONDS, "ZREM", self._members_key, self._name)

    async def _be_member(self) -> None:
        """Until the subscription is lost."""
        await self._signals.subscribe(self._channel, _EXCHANGE_SECONDS, self._on_change)
        while self._memories and not self._lost.is_set() and not _is_cancelled():
            began = time.monotonic()
            await self._exchange.run(
                _EXCHANGE_SECONDS,
                _scripts.JOIN,
                (self._members_key,),
                self._name,
                int(_LEASE_SECONDS * 1000),
            )
            await self._signals.ping(_EXCHANGE_SECONDS, uuid.uuid4().hex.encode())
            if not self._lost.is_set():
                self.served_until = began + _LEASE_SECONDS * _SERVED_SHARE
                self._serves.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LEASE_SECONDS / _RENEWALS):
                    await self._lost.wait()


class _Acknowledgements:
    """Who has acknowledged one change."""

    def __init__(self) -> None:
        self._came: set[str] = set()
        self._wanted: set[str] | None = None
        self._all = asyncio.Event()

    def came_from(self, name: str) -> None:
        self._came.add(name)
        self._look()

    async def of_all(self, seconds_by_name: dict[str, float]) -> None:
        """Until each has acknowledged, or its time has passed."""
        ends = {name: time.monotonic() + seconds for name, seconds in seconds_by_name.items()}
        self._wanted = set(ends)
        self._look()
        while not self._all.is_set():
            last = max(ends[name] for name in self._wanted)
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + last - time.monotonic()):
                    await self._all.wait()
            except TimeoutError:
                return

    def _look(self) -> None:
        if self._wanted is not None:
            self._wanted -= self._came
            if not self._wanted:
                self._all.set()


def _is_cancelled() -> bool:
    """True if this task was cancelled, even where something that it called has swallowed that."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
