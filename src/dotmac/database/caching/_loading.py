"""One load for any number of callers: shared in this process, leased across processes, never older than an invalidation.

Callers of one key share a *flight*, a task of its own: cancelling a caller cancels nobody else. A flight counts its steps.
What it brings is good for the callers who joined before the step that proved it (a read of Redis, the beginning of the
load, a fill that Redis took); a caller who joined later, perhaps after an invalidation, goes round once more.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
import uuid
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dotmac.database.caching._codec import DamagedValueError
from dotmac.database.caching._exchange import CacheUnavailableError
from dotmac.database.caching._freshness import Worth, lifetime, worth
from dotmac.database.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from dotmac.database.caching._codec import Codec
    from dotmac.database.caching._envelope import Entry, Envelope
    from dotmac.database.caching._freshness import CachePolicy
    from dotmac.database.caching._keys import Scope
    from dotmac.database.caching._link import Link
    from dotmac.database.caching._statistics import Counters
    from dotmac.database.caching._store import Begun, Store

    Loader = Callable[[], Awaitable[Any] | Any]

_logger = logging.getLogger("dotmac.database.caching")
_ANYBODY = 1 << 30
_IMMUTABLE = (str, int, float, bytes, type(None))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a flight brings.

    Attributes:
        value: The value.
        since: Good for callers who joined before this step.
        encoded: Its format and bytes, of which callers who share it get their own; None where it cannot be encoded.
    """

    value: Any
    since: int
    encoded: tuple[int, bytes] | None


class Flight:
    """One load under way.

    Attributes:
        step: How many steps it has begun.
        task: Brings the outcome.
    """

    __slots__ = ("step", "task")

    def __init__(self) -> None:
        self.step = 0
        self.task: asyncio.Task[Outcome] | None = None

    def next_step(self) -> int:
        """Begin the next step; its number."""
        self.step += 1
        return self.step


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be loaded.

    Attributes:
        scope: Where it belongs.
        text: Its key.
        loader: Brings the value.
        ttl: Time to live in seconds.
        tags: What it can be invalidated by.
        counters: Where it is counted.
        read: Reads what is cached.
        last_known: What is left in memory when Redis and the loader fail.
    """

    scope: Scope
    text: str
    loader: Loader
    ttl: float
    tags: tuple[str, ...]
    counters: Counters
    read: Callable[[], Awaitable[Entry | None]]
    last_known: Callable[[], Entry | None]


class Loading:
    """Reads through one cache.

    Args:
        store: The second level.
        codec: Encodes what was loaded.
        policy: Timeouts and lifetimes.
    """

    def __init__(self, store: Store, envelope: Envelope, codec: Codec, policy: CachePolicy) -> None:
        self._store = store
        self._envelope = envelope
        self._codec = codec
        self._policy = policy

    async def get(self, link: Link, request: Request) -> Any:
        """The cached value, or what the loader brings."""
        name = self._flight_name(request)
        while True:
            flight = link.flights.get(name)
            joined, is_shared = 0, flight is not None
            if flight is None:
                flight = self._take_off(link, name, lambda flight: self._fly(flight, link, request))
            else:
                request.counters.coalesced += 1
                joined = flight.step
            assert flight.task is not None  # noqa: S101 - set before anybody sees it
            outcome = await asyncio.shield(flight.task)
            if joined < outcome.since:
                return self._own(outcome) if is_shared else outcome.value

    def _own(self, outcome: Outcome) -> Any:
        """The value for one of several callers: none of them can change another's."""
        if outcome.encoded is None or isinstance(outcome.value, _IMMUTABLE):
            return outcome.value
        return self._codec.decode(*outcome.encoded)

    def _flight_name(self, request: Request) -> str:
        # A cache of another schema or signature would not read what this one does.
        return f"{self._envelope.fingerprint} {request.scope.values}{request.text}"

    def _take_off(self, link: Link, name: str, fly: Callable[[Flight], Any]) -> Flight:
        flight = link.flights[name] = Flight()
        flight.task = link.start(fly(flight), "dotmac-cache-load")
        flight.task.add_done_callback(lambda _task: link.flights.pop(name, None))
        return flight

    async def _fly(self, flight: Flight, link: Link, request: Request) -> Outcome:
        since = flight.next_step()
        counters = request.counters
        try:
            entry = await request.read()
        except CacheUnavailableError:
            counters.errors += 1
            counters.misses += 1
            return await self.load_alone(request)
        found = self._decoded(entry, counters)
        if entry is not None and found is not None:
            if worth(entry, time.time() * 1000) is Worth.FRESH:
                counters.hits += 1
                return Outcome(found[0], since, (entry.form, entry.body))
            stale = Outcome(found[0], since, (entry.form, entry.body))
            return await self._with_stale(link, request, entry, stale)
        counters.misses += 1
        return await self._load(flight, link, request, entry)

    async def _with_stale(self, link: Link, request: Request, entry: Entry, stale: Outcome) -> Outcome:
        """The stale value, unless the load that it sets off ends well within the soft timeout."""
        name = f"{self._flight_name(request)} refresh"
        flight = link.flights.get(name)
        joined = 0
        if flight is not None:
            joined = flight.step
        else:
            flight = self._take_off(link, name, lambda flight: self._load(flight, link, request, entry))
            flight.task.add_done_callback(lambda task: _note_failure(task, request))  # type: ignore[union-attr] # it took off
        if self._policy.soft_timeout and flight.task is not None:
            request.counters.coalesced += joined > 0
            await asyncio.wait([flight.task], timeout=self._policy.soft_timeout)
            if flight.task.done() and not flight.task.cancelled() and flight.task.exception() is None:
                outcome = flight.task.result()
                if joined < outcome.since:  # else it may be older than a change that the stale value has seen
                    return Outcome(self._own(outcome), stale.since, outcome.encoded)
        request.counters.stale += 1
        return stale

    async def _load(self, flight: Flight, link: Link, request: Request, seen: Entry | None) -> Outcome:
        """Load under a lease, or take what the process that has it brings."""
        token = uuid.uuid4().hex
        give_up_at = time.monotonic() + self._policy.hard_timeout
        try:
            since = flight.next_step()
            begun = await self._begin(link, request, token, seen)
            if begun.version is None and begun.entry is None:
                since, begun = await self._wait(flight, link, request, token, seen, give_up_at)
        except CacheUnavailableError:
            request.counters.errors += 1
            return await self.load_alone(request)
        if begun.version is not None:
            return await self._load_leased(flight, link, request, token, begun.version)
        found = self._decoded(begun.entry, request.counters)
        if begun.entry is None or found is None:
            return await self.load_alone(request)
        return Outcome(found[0], since, (begun.entry.form, begun.entry.body))

    async def _begin(self, link: Link, request: Request, token: str, seen: Entry | None) -> Begun:
        begun = await self._store.begin(
            link.exchange,
            request.scope,
            request.text,
            token,
            self._policy.lease_seconds,
            request.counters,
            self._envelope.head(seen),
        )
        if begun.mark:
            await link.copies(request.scope).changed(None, request.scope.tag, begun.mark)
        return begun

    async def _wait(
        self,
        flight: Flight,
        link: Link,
        request: Request,
        token: str,
        seen: Entry | None,
        give_up_at: float,
    ) -> tuple[int, Begun]:
        """Until another process has stored a value, or it is ours to load."""
        woken = asyncio.Event()
        name = request.scope.leases + request.text  # the channel of a lease has its name
        async with link.signals.listen(name, self._policy.timeout_seconds, lambda _message: woken.set()):
            while True:
                # Asked again once listening: the other may have ended before.
                since = flight.next_step()
                woken.clear()
                begun = await self._begin(link, request, token, seen)
                if begun.version is not None or begun.entry is not None:
                    return since, begun
                patience = min(begun.others_milliseconds / 1000, give_up_at - time.monotonic())
                if patience <= 0:
                    raise CacheUnavailableError("Another process has been loading for too long.")
                with suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        await woken.wait()

    async def _load_leased(
        self, flight: Flight, link: Link, request: Request, token: str, version: bytes
    ) -> Outcome:
        began = flight.next_step()
        store, scope, text = self._store, request.scope, request.text
        try:
            async with self._renewed(link, request, token):
                value = await self._run_loader(request)
            form, body = self._codec.encode(value)
        except BaseException:
            with suppress(CacheUnavailableError):
                await asyncio.shield(link.start(store.release(link.exchange, scope, text, token), "release"))
            raise
        life = lifetime(self._policy, self._ttl_of(value, request))
        proved = flight.next_step()
        try:
            stored = await store.fill(
                link.exchange, scope, text, token, version, form, body, life, request.tags
            )
        except CacheUnavailableError:
            request.counters.errors += 1
            return Outcome(value, _ANYBODY, (form, body))
        if stored:
            request.counters.writes += 1
            return Outcome(value, proved, (form, body))
        request.counters.refused += 1
        return Outcome(value, began, (form, body))

    async def load_alone(self, request: Request) -> Outcome:
        """Without Redis: nothing is stored, and no invalidation is known."""
        try:
            value = await self._run_loader(request)
        except Exception:
            entry = request.last_known()
            found = self._decoded(entry, request.counters)
            if entry is None or found is None:
                raise
            request.counters.stale += 1
            return Outcome(found[0], _ANYBODY, (entry.form, entry.body))
        try:
            encoded = self._codec.encode(value)
        except ValidationError:  # nothing is stored, so it need not be storable
            encoded = None
        return Outcome(value, _ANYBODY, encoded)

    async def _run_loader(self, request: Request) -> Any:
        request.counters.loads += 1
        async with asyncio.timeout(self._policy.hard_timeout):
            value = request.loader()
            return await value if inspect.isawaitable(value) else value

    def _ttl_of(self, value: Any, request: Request) -> float:
        if value is None and self._policy.negative_ttl is not None:
            return self._policy.negative_ttl
        return request.ttl

    @asynccontextmanager
    async def _renewed(self, link: Link, request: Request, token: str) -> AsyncIterator[None]:
        """Keep the lease for as long as the block takes."""

        async def renew() -> None:
            seconds = self._policy.lease_seconds
            with suppress(CacheUnavailableError):
                while True:
                    await asyncio.sleep(seconds / 3)
                    if not await self._store.renew(
                        link.exchange, request.scope, request.text, token, seconds
                    ):
                        return  # invalidated meanwhile: what is loaded will be refused

        renewal = link.start(renew(), "dotmac-cache-lease")
        try:
            yield
        finally:
            renewal.cancel()

    def _decoded(self, entry: Entry | None, counters: Counters) -> tuple[Any] | None:
        if entry is None:
            return None
        try:
            return (self._codec.decode(entry.form, entry.body),)
        except DamagedValueError:
            counters.errors += 1
            return None


def _note_failure(task: asyncio.Task[Outcome], request: Request) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        request.counters.errors += 1
        _logger.warning(
            "Loading a value of the cache %r failed with %s; its stale value is served.",
            request.scope.namespace,
            type(error).__name__,
        )
