"""The first level: entries in this process's memory, a bounded number of them, least recently used first out.

What is kept are the stored bytes, decoded on every hit: no caller can change another's value.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dotmac.database.caching._envelope import Entry


class Memory:
    """Entries by their key in Redis.

    Args:
        limit: How many at most.

    Attributes:
        changes: Grows whenever something is dropped. Who puts an entry says what it was before the entry was read: what was
            dropped meanwhile is not put back.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[str, tuple[Entry, float, str]] = OrderedDict()
        self.changes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str, now: float) -> Entry | None:
        """The entry, if its time has not passed at ``now`` (monotonic seconds)."""
        found = self._entries.get(key)
        if found is None or found[1] <= now:
            return None
        self._entries.move_to_end(key)
        return found[0]

    def last_known(self, key: str, now_milliseconds: float) -> Entry | None:
        """The entry even after its time, as long as Redis would keep it: for when nothing else is to be had."""
        found = self._entries.get(key)
        return None if found is None or found[0].kept_until <= now_milliseconds else found[0]

    def put(self, key: str, entry: Entry, *, until: float, scope: str, changes: int) -> None:
        """Keep an entry until then (monotonic seconds), unless something was dropped since ``changes``."""
        if changes != self.changes:
            return
        self._entries[key] = (entry, until, scope)
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def drop(self, keys: Iterable[str]) -> None:
        """Forget entries by key."""
        self.changes += 1
        for key in keys:
            self._entries.pop(key, None)

    def drop_scope(self, scope: str) -> None:
        """Forget a whole scope's entries."""
        self.changes += 1
        for key in [key for key, (_, _, of) in self._entries.items() if of == scope]:
            del self._entries[key]

    def outdate(self) -> None:
        """Serve nothing of what is there now; it stays as what is last known."""
        self.changes += 1
        for key, (entry, _, scope) in self._entries.items():
            self._entries[key] = (entry, 0.0, scope)
