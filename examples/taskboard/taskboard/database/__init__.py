"""The database layer: models, repositories, connection and migrations. No business rules."""

from __future__ import annotations

from taskboard.database.connection import (
    TaskboardDatabase,
    check_connection_health,
    get_async_db_connection,
)
from taskboard.database.engine import create_database_engine

__all__ = [
    "TaskboardDatabase",
    "check_connection_health",
    "create_database_engine",
    "get_async_db_connection",
]
