"""Cached rows among processes: what another one changes is removed, also if it is killed right after its COMMIT."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from redis.asyncio import Redis
from sqlalchemy import String, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dotmac.database import create_async_engine, create_async_repository, create_session_factory, unscoped
from dotmac.database.caching import CachePolicy, EntityCache

WORKER = Path(__file__).with_name("entity_worker.py")


class Base(DeclarativeBase):
    """Of these rows alone."""


class Ship(Base):
    __tablename__ = "entity_ships"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))


@pytest.mark.parametrize(
    ("how", "end", "wanted"),
    [
        ("announced", "alive", "all"),
        ("announced", "killed", "flushed"),
        ("unannounced", "killed", "old"),  # what the announcement is good for
    ],
)
async def test_what_another_process_changed_is_removed(dotmac_database, redis_url, how, end, wanted):
    engine = create_async_engine(dotmac_database.url("asyncpg"))
    with unscoped("a test"):
        sessions = create_session_factory(engine)
    prefix = f"entity-processes-{uuid.uuid4().hex}"
    async with Redis.from_url(redis_url) as client:
        cache = EntityCache(
            Ship, ttl=600, policy=CachePolicy(timeout_seconds=10), client=client, prefix=prefix
        )

        async def name():
            async with sessions() as session:
                return (await create_async_repository(session, Ship, cache=cache).get_by_id(1)).name

        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            await connection.execute(text("INSERT INTO entity_ships VALUES (1, 'old')"))
        assert [await name() for _ in range(3)] == ["old"] * 3
        assert cache.get_stats()["hits"] >= 1
        arguments = [sys.executable, WORKER, dotmac_database.url("psycopg"), prefix, how, end]
        environment = {**os.environ, "REDIS_URL": redis_url}
        process = await asyncio.to_thread(
            subprocess.run, arguments, env=environment, capture_output=True, text=True, check=False
        )
        assert process.returncode == (0 if end == "alive" else -9), process.stderr
        assert [await name() for _ in range(3)] == [wanted] * 3
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
    await engine.dispose()
