"""The one database the environment names, shared by everything in the process that does not say otherwise."""

from __future__ import annotations

import threading
from functools import cache

from dotmac.database.engine._async_database import AsyncDatabase

_lock = threading.Lock()


def get_async_db_connection() -> AsyncDatabase:
    """The process-wide `AsyncDatabase`, from the environment as it was on first use.

    Raises:
        ConfigurationError: The environment's settings cannot work.
    """
    with _lock:
        return _process_wide()


@cache
def _process_wide() -> AsyncDatabase:
    return AsyncDatabase()
