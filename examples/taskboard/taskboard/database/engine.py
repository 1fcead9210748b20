"""The engine: one way to connect, for scripts that want no session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dotmac.database import create_async_engine

from taskboard.settings import get_database_settings

if TYPE_CHECKING:
    from dotmac.database import DatabaseSettings
    from sqlalchemy.ext.asyncio import AsyncEngine


def create_database_engine(settings: DatabaseSettings | None = None) -> AsyncEngine:
    """A new engine for the settings, by default those of the environment. The caller disposes it."""
    return create_async_engine(settings or get_database_settings())
