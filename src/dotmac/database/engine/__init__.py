"""Engines and sessions: one way to connect on every driver, one rule for when work is committed."""

from __future__ import annotations

from dotmac.database.engine._async_database import AsyncDatabase
from dotmac.database.engine._create import create_async_engine, create_engine
from dotmac.database.engine._database import Database
from dotmac.database.engine._process_wide import get_async_db_connection
from dotmac.database.engine._read_only import read_only
from dotmac.database.engine._ready import wait_until_ready, wait_until_ready_sync
from dotmac.database.engine._sessions import (
    create_session_factory,
    get_session,
    with_async_session,
    with_session,
)

__all__ = [
    "AsyncDatabase",
    "Database",
    "create_async_engine",
    "create_engine",
    "create_session_factory",
    "get_async_db_connection",
    "get_session",
    "read_only",
    "wait_until_ready",
    "wait_until_ready_sync",
    "with_async_session",
    "with_session",
]
