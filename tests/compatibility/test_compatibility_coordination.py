"""Code written for `dotmac_shared.database.coordination` runs here unchanged."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import HTTPException

from dotmac.database import get_async_db_connection
from dotmac.database.caching import _client, close_redis_client
from dotmac.database.coordination import PgAdvisoryLock, RedisLock


async def test_an_import_runs_once(monkeypatch, redis_url):
    monkeypatch.setenv("REDIS_URL", redis_url)
    _client._process_wide.cache_clear()
    imports = 0
    is_inside, may_end = asyncio.Event(), asyncio.Event()

    async def import_user_data():
        nonlocal imports
        imports += 1
        is_inside.set()
        await may_end.wait()

    async def start():
        async with RedisLock("import:user-data", ttl=60) as lock:
            if lock.acquired:
                await import_user_data()
            else:
                raise HTTPException(409, "Import already in progress")

    first = asyncio.create_task(start())
    await is_inside.wait()
    with pytest.raises(HTTPException, match="409"):
        await start()
    may_end.set()
    await first
    assert imports == 1
    await close_redis_client()
    _client._process_wide.cache_clear()


async def test_counters_are_updated_by_one(monkeypatch, dotmac_database):
    from dotmac.database.engine import _process_wide  # noqa: PLC0415 - only to forget what other tests used

    monkeypatch.setenv("DATABASE_URL", dotmac_database.url())
    _process_wide._process_wide.cache_clear()
    taken = []
    async with PgAdvisoryLock(12345) as lock:
        if lock.acquired:
            taken.append("first")
        async with PgAdvisoryLock(12345) as other:
            if other.acquired:
                taken.append("second")
    assert taken == ["first"]
    await get_async_db_connection().dispose()
    _process_wide._process_wide.cache_clear()
