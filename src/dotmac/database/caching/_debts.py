"""What could not be removed while Redis was away: removed before anything else is asked of it again.

A lost invalidation would let an old value come back with the server. So its keys are kept here, and, when they get too
many, only their scope, all of which is then invalidated.
"""

from __future__ import annotations

import threading
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dotmac.database.caching._keys import Scope

_MOST_KEYS = 1000


class Debt(NamedTuple):
    """What is owed in one scope.

    Attributes:
        scope: Where.
        numbers: The keys to remove, with the number of the failure that each was owed for last; None stands for all keys.
    """

    scope: Scope
    numbers: dict[str | None, int]

    @property
    def texts(self) -> list[str] | None:
        """The keys; None for all of the scope."""
        texts = [text for text in self.numbers if text is not None]
        return texts if len(texts) == len(self.numbers) else None


class Debts:
    """Invalidations that one process owes one Redis. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = count()
        self._owed: dict[str, Debt] = {}

    def __bool__(self) -> bool:
        return bool(self._owed)

    def owe(self, scope: Scope, texts: Iterable[str] | None) -> None:
        """Remember to remove these keys, or everything of the scope for None."""
        with self._lock:
            number = next(self._numbers)
            known = self._owed.get(scope.stamp)
            everything: dict[str | None, int] = {None: number}
            if texts is None or (known and None in known.numbers):
                owed = everything
            else:
                owed = {**(known.numbers if known else {}), **dict.fromkeys(texts, number)}
            self._owed[scope.stamp] = Debt(scope, owed if len(owed) <= _MOST_KEYS else everything)

    def open_ones(self) -> list[Debt]:
        """All of them."""
        with self._lock:
            return list(self._owed.values())

    def paid(self, debt: Debt) -> None:
        """Forget what was removed. What came to be owed meanwhile stays, be it the same key: it was written again since."""
        with self._lock:
            known = self._owed.get(debt.scope.stamp)
            if known is None:
                return
            left = {
                text: number for text, number in known.numbers.items() if debt.numbers.get(text) != number
            }
            if left:
                self._owed[debt.scope.stamp] = Debt(debt.scope, left)
            else:
                del self._owed[debt.scope.stamp]
