"""What a cache gives back, on a real server: values, batches, tags, generations, tenants."""

from __future__ import annotations

import asyncio
import uuid
from decimal import Decimal

import pytest
from redis.asyncio import Redis

from dotmac.database import RequestContext, use_context
from dotmac.database.caching import MISSING, CachePolicy, SmartCache
from dotmac.database.caching._link import linked
from dotmac.database.errors import MissingTenantError, ValidationError

PATIENT = CachePolicy(timeout_seconds=10)


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
async def client(request, redis_url):
    async with Redis.from_url(redis_url, protocol=request.param) as client:
        yield client


@pytest.fixture
def prefix():
    return f"values-{uuid.uuid4().hex}"


@pytest.fixture
def cache(client, prefix):
    return SmartCache("users", ttl=60, policy=PATIENT, client=client, prefix=prefix)


VALUES = [None, False, 0, -5, "", "text", b"\x00\xff", [], {}, {"a": [1, {"b": None}]}, Decimal("1.10")]


@pytest.mark.parametrize("value", VALUES, ids=repr)
async def test_what_is_set_is_got(cache, value):
    assert await cache.get("user", 1, default=MISSING) is MISSING
    assert await cache.set("user", 1, value) is True
    assert await cache.get("user", 1, default=MISSING) == value
    assert await cache.get("user:1", default=MISSING) == value


async def test_a_deleted_value_is_gone(cache):
    await cache.set("user", 1, "Ada")
    assert await cache.delete("user", 1) is True
    assert await cache.delete("user", 1) is False
    assert await cache.get("user", 1) is None


async def test_many_values_go_in_one_command_each_way(cache, client):
    values = {("user", number): {"n": number} for number in range(100)}
    assert await cache.set_many(values) is True
    assert await cache.get_many([*values, "user:100"]) == values
    assert await cache.delete_many([("user", 1), "user:2", "user:100"]) == 2
    assert len(await cache.get_many(values)) == 98


async def test_a_pattern_removes_what_matches_and_nothing_else(cache):
    await cache.set_many({f"user:{number}": number for number in range(3000)})
    await cache.set("order", 1, "kept")
    await cache.set("user*", 1, "kept too")
    assert await cache.invalidate_pattern("user:1*") == 1111
    assert await cache.get("user", 2) == 2
    assert await cache.invalidate_pattern(r"user\*:*") == 1
    assert await cache.get("order", 1) == "kept"


async def test_a_namespace_is_invalidated_at_once(cache):
    await cache.set_many({f"user:{number}": number for number in range(100)})
    await cache.invalidate_namespace()
    assert await cache.get_many(f"user:{number}" for number in range(100)) == {}
    await cache.set("user", 1, "new")
    assert await cache.get("user", 1) == "new"


async def test_a_tag_invalidates_what_bears_it(cache):
    await cache.set("a", 1, tags=["red", "big"])
    await cache.set("b", 2, tags=["red"])
    await cache.set("c", 3)
    await cache.invalidate_tags("big")
    assert await cache.get_many("abc") == {"b": 2, "c": 3}
    await cache.set("a", 4, tags=["big"])
    await cache.invalidate_tags("red", "unknown")
    assert await cache.get_many("abc") == {"a": 4, "c": 3}


@pytest.mark.parametrize("tags", [["x" * 1000] * 66, ["a\0b"]], ids=["too many", "NUL"])
async def test_tags_that_cannot_be_kept_with_their_value_are_refused(cache, tags):
    await cache.set("a", 1)
    with pytest.raises(ValidationError):
        await cache.set("a", 2, tags=tags)
    with pytest.raises(ValidationError):
        await cache.get_or_load("b", lambda: 3, tags=tags)
    assert await cache.get("a") == 1


async def test_a_tag_that_redis_has_evicted_invalidates_what_bears_it(cache, client, prefix):
    await cache.set("a", 1, tags=["red"])
    await cache.invalidate_tags("another")
    assert await cache.get("a") == 1
    await client.delete(f"{prefix}:{{users}}:t:red")
    assert await cache.get("a") is None


async def test_what_was_invalidated_stays_so_when_its_evicted_tag_is_used_again(cache, client, prefix):
    await cache.set("a", 1, tags=["red"])
    await cache.invalidate_tags("red")
    await client.delete(f"{prefix}:{{users}}:t:red")
    await cache.set("b", 2, tags=["red"])
    assert await cache.get_many("ab") == {"b": 2}
    assert await cache.get_or_load("c", lambda: 3, tags=["red"]) == 3
    assert await cache.get_many("abc") == {"b": 2, "c": 3}


async def test_a_tag_lives_as_long_as_what_bears_it_and_no_longer(cache, client, prefix):
    red, unknown = (f"{prefix}:{{users}}:t:{name}" for name in ("red", "unknown"))
    await cache.set("short", 1, ttl=10, tags=["red"])
    assert 0 < await client.pttl(red) <= 10_000
    await cache.set("long", 2, ttl=60, tags=["red"])
    await cache.set("short", 3, ttl=10, tags=["red"])
    assert 50_000 < await client.pttl(red) <= 60_000
    await cache.invalidate_tags("red", "unknown")
    assert 50_000 < await client.pttl(red) <= 60_000
    assert not await client.exists(unknown)


async def test_a_damaged_copy_in_memory_is_a_counted_miss(client, prefix):
    policy = CachePolicy(timeout_seconds=10, memory_seconds=60)
    cache = SmartCache("users", policy=policy, client=client, prefix=prefix)
    await cache.set("a", {"n": 1})
    await cache.get("warm-up")
    await cache._link().copies(cache._spaces[None].scope).serves()
    key = f"{prefix}:{{users}}:v:a"
    stored = await client.get(key)
    await client.set(key, stored[:-3] + b"\xff\xff\xff", keepttl=True)
    assert await cache.get("a", default=MISSING) is MISSING  # and it is kept in memory
    assert await cache.get("a", default=MISSING) is MISSING
    assert await cache.get_or_load("a", lambda: 2) == 2
    assert await cache.get("a") == 2
    stats = await cache.get_stats()
    assert stats["errors"] >= 3
    assert (stats["misses"], stats["loads"]) == (4, 1)
    await linked(client).close()


async def test_generations_that_redis_has_evicted_invalidate_everything(cache, client, prefix):
    await cache.set("a", 1)
    await client.delete(f"{prefix}:{{users}}:s")
    assert await cache.get("a") is None
    await cache.set("b", 2)
    assert await cache.get_many("ab") == {"b": 2}


async def test_tenants_do_not_see_each_other(cache):
    await cache.set("user", 1, "nobody's")
    for tenant in ("acme", "globex*", "acme:users"):
        with use_context(RequestContext(tenant_id=tenant)):
            assert await cache.get("user", 1) is None
            await cache.set("user", 1, tenant)
    with use_context(RequestContext(tenant_id="globex*")):
        assert await cache.invalidate_pattern("*") == 1
        await cache.invalidate_namespace()
    assert await cache.for_tenant("acme").get("user", 1) == "acme"
    assert await cache.get("user", 1) == "nobody's"
    assert await cache.for_tenant("acme").purge() >= 1
    assert await cache.for_tenant("acme").get("user", 1) is None
    assert await cache.for_tenant("acme:users").get("user", 1) == "acme:users"


async def test_a_cache_that_requires_a_tenant_raises_without_one(client, prefix):
    cache = SmartCache("users", client=client, prefix=prefix, tenancy="required", policy=PATIENT)
    for work in (cache.get("a"), cache.set("a", 1), cache.delete("a"), cache.invalidate_pattern("*")):
        with pytest.raises(MissingTenantError, match="users"):
            await work
    with use_context(RequestContext(tenant_id="acme")):
        await cache.set("a", 1)
    assert await cache.for_tenant("acme").get("a") == 1


async def test_statistics_are_each_tenants_own(cache):
    await cache.get("a")
    await cache.set("a", 1)
    await cache.get("a")
    stats = await cache.get_stats()
    assert (stats["hits"], stats["misses"], stats["writes"], stats["hit_rate"]) == (1, 1, 1, 0.5)
    assert f"{stats['hit_rate']:.2%}" == "50.00%"
    assert (await cache.for_tenant("acme").get_stats())["misses"] == 0


@pytest.mark.parametrize("stored", [b"", b"junk", b"x" * 200, b"\x80\x04]", "9" * 60], ids=repr)
async def test_foreign_bytes_are_a_counted_miss(cache, client, prefix, stored):
    await cache.set("a", 1)
    key = f"{prefix}:{{users}}:v:a"
    version = (await client.get(key))[:16]
    await client.set(key, stored)
    assert await cache.get("a", default=MISSING) is MISSING
    await client.set(key, version + (stored if isinstance(stored, bytes) else stored.encode()))
    assert await cache.get("a", default=MISSING) is MISSING
    assert (await cache.get_stats())["errors"] == 1
    assert await cache.get_or_load("a", lambda: 2) == 2
    assert await cache.get("a") == 2


async def test_every_cut_and_every_changed_byte_is_a_miss_or_the_value(client, prefix):
    cache = SmartCache("signed", client=client, prefix=prefix, signing_key="secret", policy=PATIENT)
    await cache.set("a", {"n": 1})
    key = f"{prefix}:{{signed}}:v:a"
    good = await client.get(key)
    for place in range(len(good)):
        await client.set(key, good[:place])
        assert await cache.get("a", default=MISSING) is MISSING
        await client.set(key, good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        if place >= 16:
            assert await cache.get("a", default=MISSING) is MISSING
    await client.set(f"{prefix}:{{signed}}:v:b", good)
    assert await cache.get("b", default=MISSING) is MISSING  # moved to another key
    await client.set(key, good)
    assert await cache.get("a") == {"n": 1}
    other = SmartCache("signed", client=client, prefix=prefix, signing_key=b"other", policy=PATIENT)
    assert await other.get("a", default=MISSING) is MISSING
    plain = SmartCache("signed", client=client, prefix=prefix, policy=PATIENT)
    assert await plain.get("a", default=MISSING) is MISSING


async def test_another_schema_version_is_a_miss(client, prefix):
    caches = [SmartCache("s", client=client, prefix=prefix, schema=n, policy=PATIENT) for n in (1, 2)]
    await caches[0].set("a", 1)
    assert await caches[1].get("a") is None
    assert (await caches[1].get_stats())["errors"] == 0
    assert await caches[1].get_or_load("a", lambda: 2) == 2
    assert await caches[0].get("a") is None


async def test_a_quota_keeps_the_entries_that_live_longest(client, prefix):
    policy = CachePolicy(quota=3, jitter=0, timeout_seconds=10)
    cache = SmartCache("q", ttl=60, policy=policy, client=client, prefix=prefix)
    await cache.set("short", 0, ttl=30)
    await cache.set_many({"a": 1, "b": 2}, ttl=40)
    await cache.for_tenant("acme").set("a", 1)
    await cache.get_or_load("long", lambda: 3)
    assert await cache.get_many(["short", "a", "b", "long"]) == {"a": 1, "b": 2, "long": 3}
    assert await cache.for_tenant("acme").get("a") == 1


@pytest.mark.parametrize(
    "key", [(), ("",), ("a:",), ("a", ""), ("a", None), ("a", object()), ("a", [1])], ids=range(7)
)
async def test_a_key_that_names_nothing_is_refused(cache, key):
    with pytest.raises(ValidationError, match="key"):
        await cache.get(*key)


@pytest.mark.parametrize("value", [object(), {"a": {1, object()}}, lambda: 1, "\ud800", 3 + 4j], ids=range(5))
async def test_a_value_that_cannot_be_stored_is_refused(cache, value):
    with pytest.raises(ValidationError, match="cannot be cached"):
        await cache.set("a", value)
    with pytest.raises(ValidationError, match="cannot be cached"):
        await cache.get_or_load("a", lambda: value)
    assert await asyncio.wait_for(cache.get_or_load("a", lambda: 1), 3) == 1  # no lease is left behind


async def test_a_client_that_decodes_answers_serves_too(redis_url, prefix):
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        cache = SmartCache("d", client=client, prefix=prefix, policy=PATIENT)
        await cache.set("a", {"b": b"\xff"}, tags=["t"])
        await cache.invalidate_tags("u")
        assert await cache.get("a") == {"b": b"\xff"}
        assert await cache.invalidate_pattern("*") == 1
