"""What could not be removed while Redis was away: removed before anything else is asked of it again.

A lost invalidation would let an old value come back with the server. So its keys are kept here, and, when they get too
many, only their scope, all of which is then invalidated.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dotmac.database.caching._keys import Scope

_MOST_KEYS = 1000


class Debts:
    """Invalidations that one process owes one Redis. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owed: dict[str, tuple[Scope, set[str] | None]] = {}

    def __bool__(self) -> bool:
        return bool(self._owed)

    def owe(self, scope: Scope, texts: Iterable[str] | None) -> None:
        """Remember to remove these keys, or everything of the scope for None."""
        with self._lock:
            _, known = self._owed.get(scope.stamp, (scope, set()))
            owed = None if known is None or texts is None else known.union(texts)
            if owed is not None and len(owed) > _MOST_KEYS:
                owed = None
            self._owed[scope.stamp] = (scope, owed)

    def open_ones(self) -> list[tuple[Scope, frozenset[str] | None]]:
        """All of them: keys of a scope, or None for everything of it."""
        with self._lock:
            return [
                (scope, None if texts is None else frozenset(texts)) for scope, texts in self._owed.values()
            ]

    def paid(self, scope: Scope, texts: frozenset[str] | None) -> None:
        """Forget what was removed; what came to be owed meanwhile stays."""
        with self._lock:
            _, known = self._owed.get(scope.stamp, (scope, set()))
            left = set() if texts is None else known if known is None else known - texts
            if left is None or left:
                self._owed[scope.stamp] = (scope, left)
            else:
                self._owed.pop(scope.stamp, None)
