"""Rows of one table in Redis: read and filled unless a change of them is being committed.

A change announces itself before COMMIT: it removes the values and leaves a *mark* in their place (for rows, the lease
under which they would be loaded; for the whole table, a key of its own). Nobody fills past a mark, so that a process
that dies between COMMIT and telling Redis leaves no old value behind. After COMMIT the change is settled: what came
meanwhile is removed, and the marks with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dotmac.database.caching import _scripts
from dotmac.database.caching._envelope import VERSION_DIGITS
from dotmac.database.caching._store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dotmac.database.caching._envelope import Entry
    from dotmac.database.caching._exchange import Exchange
    from dotmac.database.caching._keys import Scope
    from dotmac.database.caching._statistics import Counters

MARK_SECONDS = 30
"""How long a mark stays if it is never settled: longer than a COMMIT takes."""

CHANGE_SECONDS = 1.0
"""How long telling Redis of a change may take: longer than a read, since an old value would stay."""

_ROWS_A_COMMAND = 500

BEGIN = _scripts.Script(
    _scripts.STAMP
    + """
-- KEYS: stamp, lease, mark  ARGV: token, life of the lease
local s = stamp()
if redis.call('EXISTS', KEYS[3]) == 1 then return '' end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return s end
return ''
"""
)
"""Take the lease of a row: the stamp, or nothing where another has it or the table has a mark."""

ANNOUNCE_ROWS = _scripts.Script(
    """
-- KEYS: value, lease, value, lease, …  ARGV: token, life of the mark
for i = 1, #KEYS, 2 do
  redis.call('UNLINK', KEYS[i])
  redis.call('SET', KEYS[i + 1], ARGV[1], 'PX', ARGV[2])
end
return 1
"""
)
ANNOUNCE_ALL = _scripts.Script(
    _scripts.STAMP
    + """
-- KEYS: stamp, mark  ARGV: token, life of the mark
local s = stamp()
local v = following(string.sub(s, 1, 16))
redis.call('SET', KEYS[1], v .. v .. string.sub(s, 33))
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 1
"""
)
SETTLE_ALL = _scripts.Script(
    _scripts.STAMP
    + """
-- KEYS: stamp, mark  ARGV: token
local s = stamp()
local v = following(string.sub(s, 1, 16))
redis.call('SET', KEYS[1], v .. v .. string.sub(s, 33))
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return 1
"""
)


class EntityStore(Store):
    """A `Store` whose entries are rows."""

    async def read_row(
        self, exchange: Exchange, scope: Scope, text: str, counters: Counters
    ) -> tuple[bool, Entry | None]:
        """Whether the table has no mark, and the valid entry of the row."""
        key = scope.values + text
        stamp, stored, mark = await exchange.command(self._seconds, "MGET", scope.stamp, key, _mark_of(scope))
        if mark is not None:
            return False, None
        if stored is None or stamp is None:
            return True, None
        return True, self._valid(stamp, key, stored, counters)

    async def begin_row(
        self, exchange: Exchange, scope: Scope, text: str, token: str, lease_seconds: float
    ) -> bytes | None:
        """Take the lease of a row: the version in which its load begins, or None if it is not to be stored."""
        keys = (scope.stamp, scope.leases + text, _mark_of(scope))
        stamp: bytes = await exchange.run(self._seconds, BEGIN, keys, token, int(lease_seconds * 1000))
        return stamp[:VERSION_DIGITS] or None

    async def announce(
        self, exchange: Exchange, scope: Scope, texts: Sequence[str] | None, token: str
    ) -> None:
        """Remove rows (all, for None), and keep them from being stored until the change is settled."""
        life = MARK_SECONDS * 1000
        if texts is None:
            await exchange.run(CHANGE_SECONDS, ANNOUNCE_ALL, (scope.stamp, _mark_of(scope)), token, life)
            return
        for start in range(0, len(texts), _ROWS_A_COMMAND):
            part = texts[start : start + _ROWS_A_COMMAND]
            keys = tuple(key for text in part for key in (scope.values + text, scope.leases + text))
            await exchange.run(CHANGE_SECONDS, ANNOUNCE_ROWS, keys, token, life)

    async def settle(self, exchange: Exchange, scope: Scope, texts: Sequence[str] | None, token: str) -> None:
        """Remove rows (all, for None), with the marks and whatever loads of them are under way."""
        if texts is None:
            await exchange.run(CHANGE_SECONDS, SETTLE_ALL, (scope.stamp, _mark_of(scope)), token)
            return
        for start in range(0, len(texts), _ROWS_A_COMMAND):
            part = texts[start : start + _ROWS_A_COMMAND]
            keys = tuple(key for text in part for key in (scope.values + text, scope.leases + text))
            await exchange.run(CHANGE_SECONDS, _scripts.DELETE, (scope.stamp, *keys))


def _mark_of(scope: Scope) -> str:
    return f"{scope.tag}m"
