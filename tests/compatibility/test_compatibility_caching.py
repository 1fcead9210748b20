"""Caching code written for `dotmac_shared.database` runs here with only its imports changed."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import Column, String, select

from dotmac.database import BaseModel, get_async_db_connection, get_db
from dotmac.database.caching import (
    SmartCache,
    _client,
    close_redis_client,
    get_redis_client,
    get_redis_pool,
)


class Member(BaseModel):
    __tablename__ = "compatibility_caching_members"

    email = Column(String(255), unique=True, nullable=False)
    name = Column(String(255), nullable=False)


MODELS = [Member]


@pytest.fixture
async def redis(environment, redis_url):
    environment.setenv("REDIS_URL", redis_url)
    environment.setenv("REDIS_MAX_CONNECTIONS", "7")
    _client._process_wide.cache_clear()
    yield get_redis_client()
    await close_redis_client()
    await get_async_db_connection().dispose()
    _client._process_wide.cache_clear()


@pytest.fixture
async def member(redis):
    async with get_db() as session:
        member = Member(email=f"{uuid.uuid4().hex}@example.com", name="Ada")
        session.add(member)
        await session.flush()
        return member.id


async def test_client_and_pool_are_what_the_environment_names(redis):
    assert await redis.ping()
    assert get_redis_pool().max_connections == 7
    assert redis.connection_pool is get_redis_pool()


async def test_read_through_invalidate_and_count(member):
    user_cache = SmartCache(namespace=f"users-{uuid.uuid4().hex}", ttl=300)
    fetched = []

    async def get_user_cached(user_id):
        cached = await user_cache.get("user", user_id)
        if cached:
            return cached
        async with get_db() as session:
            user = await session.get(Member, user_id)
            fetched.append(user_id)
            await user_cache.set("user", user_id, user.dict())
            return user

    first = await get_user_cached(member)
    second = await get_user_cached(member)
    assert (first.name, second["name"], second["id"], len(fetched)) == ("Ada", "Ada", member, 1)
    assert second["created_at"] == first.created_at

    await user_cache.invalidate_pattern("user:*")
    await get_user_cached(member)
    assert len(fetched) == 2

    stats = await user_cache.get_stats()
    assert f"Hit rate: {stats['hit_rate']:.2%}" == "Hit rate: 33.33%"


async def test_two_levels_and_warming(member):
    run = uuid.uuid4().hex
    l1_cache = SmartCache(f"users-{run}", ttl=60)
    l2_cache = SmartCache(f"users-l2-{run}", ttl=3600)
    fetched = []

    async def fetch_user_from_db(user_id):
        fetched.append(user_id)
        async with get_db() as session:
            return (await session.get(Member, user_id)).dict()

    async def get_user_multilevel(user_id):
        user = await l1_cache.get("user", user_id)
        if user:
            return user
        user = await l2_cache.get("user", user_id)
        if user:
            await l1_cache.set("user", user_id, user)
            return user
        user = await fetch_user_from_db(user_id)
        await l1_cache.set("user", user_id, user)
        await l2_cache.set("user", user_id, user)
        return user

    async def warm_user_cache(user_ids):
        async with get_db() as session:
            result = await session.execute(select(Member).where(Member.id.in_(user_ids)))
            for user in result.scalars().all():
                await l1_cache.set("user", user.id, user.dict())

    first = await get_user_multilevel(member)
    await l1_cache.invalidate_pattern("user:*")
    assert await get_user_multilevel(member) == first
    assert await l1_cache.get("user", member) == first
    assert fetched == [member]

    await l1_cache.invalidate_pattern("*")
    await l2_cache.invalidate_pattern("*")
    await warm_user_cache([member])
    assert (await get_user_multilevel(member))["name"] == "Ada"
    assert fetched == [member]
