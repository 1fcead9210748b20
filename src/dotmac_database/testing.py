"""A second import name for `dotmac.database.testing`."""

from __future__ import annotations

from typing import Any

import dotmac.database.testing


def __getattr__(name: str) -> Any:
    return getattr(dotmac.database.testing, name)
