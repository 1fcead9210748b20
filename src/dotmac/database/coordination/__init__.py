"""One at a time, across processes: locks that say whether you have them, whether you lost them, and since when.

`RedisLock` needs Redis or Valkey, `PgAdvisoryLock` the PostgreSQL that is there anyway. Names are imported on first use,
so that neither needs the other's driver.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dotmac.database.coordination._lock import Lock
    from dotmac.database.coordination._pg_keys import advisory_key
    from dotmac.database.coordination._pg_lock import PgAdvisoryLock
    from dotmac.database.coordination._redis_lock import RedisLock

__all__ = ["Lock", "PgAdvisoryLock", "RedisLock", "advisory_key"]

_HOMES = {
    "Lock": "_lock",
    "PgAdvisoryLock": "_pg_lock",
    "RedisLock": "_redis_lock",
    "advisory_key": "_pg_keys",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
