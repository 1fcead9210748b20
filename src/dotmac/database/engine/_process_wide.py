"""The one database the environment names, shared by everything in the process that does not say otherwise."""

from __future__ import annotations

from functools import lru_cache

from dotmac.database.engine._async_database import AsyncDatabase


@lru_cache(maxsize=1)
def get_async_db_connection() -> AsyncDatabase:
    """The process-wide `AsyncDatabase`, from the environment as it was on first use.

    Raises:
        ConfigurationError: The environment's settings cannot work.
    """
    return AsyncDatabase()
