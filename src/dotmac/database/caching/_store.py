"""The second level: entries in Redis, read and written with their generations. Thin: commands out, answers judged."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dotmac.database.caching import _scripts
from dotmac.database.caching._codec import DamagedValueError
from dotmac.database.caching._envelope import HEAD_BYTES, VERSION_DIGITS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from dotmac.database.caching._envelope import Entry, Envelope
    from dotmac.database.caching._exchange import Exchange
    from dotmac.database.caching._freshness import CachePolicy, Lifetime
    from dotmac.database.caching._keys import Scope
    from dotmac.database.caching._statistics import Counters

_SCAN_COUNT = 1000
_KEYS_A_COMMAND = 500
_LONG_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Begun:
    """The answer to taking a lease.

    Attributes:
        version: Generation in which the load begins; None where another has the lease.
        entry: A value that came since the caller looked, instead of a lease.
        others_milliseconds: For how long at most another has the lease.
        mark: 2 if the generations had to be made, so that nobody knows of copies.
    """

    version: bytes | None = None
    entry: Entry | None = None
    others_milliseconds: int = 0
    mark: int = 0


class Store:
    """Entries of one cache in Redis.

    Args:
        envelope: Wraps entries.
        policy: Deadlines and quota.
    """

    def __init__(self, envelope: Envelope, policy: CachePolicy) -> None:
        self._envelope = envelope
        self._seconds = policy.timeout_seconds
        # Batches of a thousand keys take longer than one; giving up halfway would help nobody.
        self._long_seconds = max(policy.timeout_seconds, _LONG_SECONDS)
        self._quota = policy.quota

    async def read(self, exchange: Exchange, scope: Scope, text: str, counters: Counters) -> Entry | None:
        """The valid entry, fresh or stale, or None."""
        key = scope.values + text
        stamp, stored = await exchange.command(self._seconds, "MGET", scope.stamp, key)
        if stored is None or stamp is None:
            return None
        return await self._judge(exchange, scope, stamp, key, stored, counters)

    async def read_to_copy(
        self, exchange: Exchange, scope: Scope, text: str, counters: Counters
    ) -> tuple[Entry | None, float]:
        """Same as `read`, and the seconds for which Redis keeps it; who changes it will announce that."""
        key = scope.values + text
        stamp, stored, left = await exchange.run(self._seconds, _scripts.READ_TO_COPY, (scope.stamp, key))
        if not stored:
            return None, 0.0
        return await self._judge(exchange, scope, stamp, key, stored, counters), max(left, 0) / 1000

    async def read_many(
        self, exchange: Exchange, scope: Scope, texts: Sequence[str], counters: Counters
    ) -> list[Entry | None]:
        """For each text its valid entry or None, in one command."""
        keys = [scope.values + text for text in texts]
        stamp, *found = await exchange.command(self._seconds, "MGET", scope.stamp, *keys)
        if stamp is None:
            return [None] * len(keys)
        # Most need no second look; a coroutine for each would cost more than looking.
        entries = [
            None if stored is None else self._valid(stamp, key, stored, counters)
            for key, stored in zip(keys, found, strict=True)
        ]
        return [
            entry
            if entry is None or not entry.tags
            else await self._not_tagged_out(exchange, scope, stamp, entry)
            for entry in entries
        ]

    async def write(
        self,
        exchange: Exchange,
        scope: Scope,
        text: str,
        form: int,
        body: bytes,
        life: Lifetime,
        tags: tuple[str, ...] = (),
    ) -> int:
        """Store a value whatever was there; the mark for copies (0: nobody has any)."""
        key = scope.values + text
        entry = self._envelope.wrap(
            key, form, body, fresh_until=life.fresh_until, kept_until=life.kept_until, tags=tags
        )
        keys = (scope.stamp, key, scope.leases + text, *map(scope.tag_key, tags))
        mark = await exchange.run(self._seconds, _scripts.WRITE, keys, entry, life.milliseconds)
        if self._quota is not None:
            await self._make_room(exchange, scope, [(life.kept_until, text)])
        return int(mark)

    async def write_many(
        self, exchange: Exchange, scope: Scope, entries: Sequence[tuple[str, int, bytes, Lifetime]]
    ) -> tuple[int, int]:
        """Same as `write`, for many values without tags, in one command for each 500; how many, and the mark."""
        mark = 0
        for start in range(0, len(entries), _KEYS_A_COMMAND):
            keys = [scope.stamp]
            arguments: list[Any] = []
            for text, form, body, life in entries[start : start + _KEYS_A_COMMAND]:
                key = scope.values + text
                keys += (key, scope.leases + text)
                arguments += (
                    self._envelope.wrap(
                        key, form, body, fresh_until=life.fresh_until, kept_until=life.kept_until
                    ),
                    life.milliseconds,
                )
            mark = max(mark, await exchange.run(self._seconds, _scripts.WRITE_MANY, tuple(keys), *arguments))
        if self._quota is not None:
            await self._make_room(exchange, scope, [(life.kept_until, text) for text, _, _, life in entries])
        return len(entries), int(mark)

    async def delete(self, exchange: Exchange, scope: Scope, texts: Sequence[str]) -> tuple[int, int]:
        """Remove values and refuse loads of them; how many there were, and the mark for copies."""
        gone, mark = 0, 0
        for start in range(0, len(texts), _KEYS_A_COMMAND):
            keys = [scope.stamp]
            for text in texts[start : start + _KEYS_A_COMMAND]:
                keys += (scope.values + text, scope.leases + text)
            count, marked = await exchange.run(self._seconds, _scripts.DELETE, tuple(keys))
            gone, mark = gone + count, max(mark, marked)
        return gone, int(mark)

    async def begin(
        self,
        exchange: Exchange,
        scope: Scope,
        text: str,
        token: str,
        lease_seconds: float,
        counters: Counters,
        seen: bytes = b"",
    ) -> Begun:
        """Take the lease of a key, unless another has it or a value came since ``seen`` was read."""
        key = scope.values + text
        answer = await exchange.run(
            self._seconds,
            _scripts.BEGIN,
            (scope.stamp, key, scope.leases + text),
            token,
            int(lease_seconds * 1000),
            seen,
        )
        if answer[0] == 1:
            return Begun(version=answer[1][:VERSION_DIGITS], mark=answer[2])
        if answer[0] == 0:
            return Begun(others_milliseconds=max(int(answer[1]), 1))
        entry = await self._judge(exchange, scope, answer[1], key, answer[2], counters)
        if entry is not None and entry.kept_until > time.time() * 1000:
            return Begun(entry=entry)
        # Unreadable for this cache: of another schema, or damaged. It is as good as none.
        return await self.begin(
            exchange, scope, text, token, lease_seconds, counters, seen=answer[2][:HEAD_BYTES]
        )

    async def begin_anew(
        self, exchange: Exchange, scope: Scope, text: str, token: str, lease_seconds: float
    ) -> Begun:
        """Same as `begin`, whatever is stored under the key."""
        keys = (scope.stamp, scope.values + text, scope.leases + text)
        answer = await exchange.run(
            self._seconds, _scripts.BEGIN, keys, token, int(lease_seconds * 1000), "", "anew"
        )
        if answer[0] == 1:
            return Begun(version=answer[1][:VERSION_DIGITS], mark=answer[2])
        return Begun(others_milliseconds=max(int(answer[1]), 1))

    async def fill(
        self,
        exchange: Exchange,
        scope: Scope,
        text: str,
        token: str,
        version: bytes,
        form: int,
        body: bytes,
        life: Lifetime,
        tags: tuple[str, ...] = (),
    ) -> bool:
        """Store what was loaded under a lease, and wake who waits; False if it was invalidated meanwhile."""
        key = scope.values + text
        entry = self._envelope.wrap(
            key, form, body, fresh_until=life.fresh_until, kept_until=life.kept_until, tags=tags
        )
        keys = (scope.stamp, key, scope.leases + text, *map(scope.tag_key, tags))
        stored = await exchange.run(
            self._seconds, _scripts.FILL, keys, token, version, entry, life.milliseconds
        )
        if stored and self._quota is not None:
            await self._make_room(exchange, scope, [(life.kept_until, text)])
        return bool(stored)

    async def release(self, exchange: Exchange, scope: Scope, text: str, token: str) -> None:
        """Give a lease back without a value, and wake who waits."""
        await exchange.run(self._seconds, _scripts.RELEASE, (scope.leases + text,), token)

    async def renew(
        self, exchange: Exchange, scope: Scope, text: str, token: str, lease_seconds: float
    ) -> bool:
        """Keep a lease for longer; False if it is lost."""
        keys = (scope.leases + text,)
        return bool(await exchange.run(self._seconds, _scripts.RENEW, keys, token, int(lease_seconds * 1000)))

    async def invalidate_scope(self, exchange: Exchange, scope: Scope) -> tuple[int, int]:
        """Make every entry of the scope invalid at once, uncounted: 0, and the mark for copies."""
        return 0, int(await exchange.run(self._seconds, _scripts.INVALIDATE, (scope.stamp,), "all"))

    async def invalidate_tags(self, exchange: Exchange, scope: Scope, tags: Iterable[str]) -> tuple[int, int]:
        """Make every entry that bears one of the tags invalid at once, uncounted: 0, and the mark for copies."""
        keys = (scope.stamp, *map(scope.tag_key, tags))
        return 0, int(await exchange.run(self._seconds, _scripts.INVALIDATE, keys, "tags"))

    async def invalidate_matching(self, exchange: Exchange, scope: Scope, pattern: str) -> tuple[int, int]:
        """Remove every value whose key matches, and refuse loads under way; how many there were, and the mark."""
        mark = await exchange.run(self._long_seconds, _scripts.INVALIDATE, (scope.stamp,), "loads")
        gone = 0
        async for keys in self.scan(exchange, scope.values + pattern):
            gone += await exchange.command(self._long_seconds, "UNLINK", *keys)
        async for keys in self.scan(exchange, scope.leases + pattern):
            await exchange.command(self._long_seconds, "UNLINK", *keys)
        return gone, int(mark)

    async def purge(self, exchange: Exchange, scope: Scope) -> tuple[int, int]:
        """Remove everything of the scope, statistics and generations included; how many values, and the mark."""
        mark = await exchange.run(self._long_seconds, _scripts.INVALIDATE, (scope.stamp,), "all")
        gone = 0
        async for keys in self.scan(exchange, f"{scope.tag}*"):
            await exchange.command(self._long_seconds, "UNLINK", *keys)
            values = scope.values.encode()
            gone += sum(key.startswith(values) for key in keys)
        return gone, int(mark)

    async def add_counts(self, exchange: Exchange, scope: Scope, counts: dict[str, int]) -> None:
        """Add to the sums over all processes."""
        words = [word for pair in counts.items() for word in pair]
        await exchange.run(self._seconds, _scripts.ADD_COUNTS, (scope.counters,), *words)

    async def scan(self, exchange: Exchange, pattern: str) -> AsyncIterator[list[bytes]]:
        """Keys that match, in batches; every node of a cluster is asked."""
        for options in await exchange.primaries():
            cursor = b"0"
            while True:
                answer = await exchange.command(
                    self._long_seconds, "SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT, **options
                )
                cursor, keys = _scanned(answer)
                if keys:
                    yield keys
                if int(cursor) == 0:
                    break

    async def _judge(
        self, exchange: Exchange, scope: Scope, stamp: bytes, key: str, stored: bytes, counters: Counters
    ) -> Entry | None:
        entry = self._valid(stamp, key, stored, counters)
        if entry is None or not entry.tags:
            return entry
        return await self._not_tagged_out(exchange, scope, stamp, entry)

    def _valid(self, stamp: bytes, key: str, stored: bytes, counters: Counters) -> Entry | None:
        """The entry, unless its generation is over or it cannot be read; its tags are not looked at."""
        if (
            not stamp[VERSION_DIGITS : 2 * VERSION_DIGITS]
            <= stored[:VERSION_DIGITS]
            <= stamp[:VERSION_DIGITS]
        ):
            return None
        try:
            return self._envelope.unwrap(key, stored)
        except DamagedValueError:
            counters.errors += 1
            return None

    async def _not_tagged_out(
        self, exchange: Exchange, scope: Scope, stamp: bytes, entry: Entry
    ) -> Entry | None:
        """The entry, unless one of its tags was invalidated since; asks only if anything was."""
        if entry.version == stamp[:VERSION_DIGITS]:
            return entry
        floors = await exchange.command(self._seconds, "MGET", *map(scope.tag_key, entry.tags))
        return entry if all(floor is not None and floor <= entry.version for floor in floors) else None

    async def _make_room(self, exchange: Exchange, scope: Scope, new: Iterable[tuple[int, str]]) -> None:
        words = [word for entry in new for word in entry]
        victims = await exchange.run(
            self._seconds,
            _scripts.ENFORCE_QUOTA,
            (scope.index,),
            self._quota,
            int(time.time() * 1000),
            *words,
        )
        if victims:
            await self.delete(exchange, scope, [victim.decode() for victim in victims])


def _scanned(answer: Any) -> tuple[bytes, list[bytes]]:
    if isinstance(answer, dict):  # redis-py's cluster client: an answer for each node
        (answer,) = answer.values()
    cursor, keys = answer
    if isinstance(cursor, dict):
        (cursor,) = cursor.values()
    return cursor, keys


async def remove_owed(
    exchange: Exchange, scope: Scope, texts: Iterable[str] | None, timeout_seconds: float
) -> int:
    """Remove keys of a scope, or make all of it invalid for None; the mark for copies."""
    if texts is None:
        return int(await exchange.run(timeout_seconds, _scripts.INVALIDATE, (scope.stamp,), "all"))
    keys = [key for text in texts for key in (scope.values + text, scope.leases + text)]
    _, mark = await exchange.run(timeout_seconds, _scripts.DELETE, (scope.stamp, *keys))
    return int(mark)
