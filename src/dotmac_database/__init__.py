"""A second import name for `dotmac.database`: every public name, the same objects."""

from __future__ import annotations

from typing import Any

import dotmac.database

__all__ = dotmac.database.__all__  # pyright: ignore[reportUnsupportedDunderAll] - one list, kept there


def __getattr__(name: str) -> Any:
    return getattr(dotmac.database, name)


def __dir__() -> list[str]:
    return dir(dotmac.database)
