"""Tools for your tests: a pytest plugin with real servers, and stand-ins that need none."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dotmac.database.testing._memory import InMemoryDatabase
    from dotmac.database.testing._mock import AsyncMockRepository, MockRepository
    from dotmac.database.testing._proxy import FaultProxy

_HOMES = {
    "AsyncMockRepository": "_mock",
    "FaultProxy": "_proxy",
    "InMemoryDatabase": "_memory",
    "MockRepository": "_mock",
}

__all__ = ["AsyncMockRepository", "FaultProxy", "InMemoryDatabase", "MockRepository"]


def __getattr__(name: str) -> Any:
    # On first use: the pytest plugin lives in this package, and every pytest run imports it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
