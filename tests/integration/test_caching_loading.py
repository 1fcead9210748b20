"""Loading through a cache in one process: once for everybody, never older than an invalidation, stale when allowed."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from fastapi import FastAPI
from redis.asyncio import Redis

from dotmac.database import AsyncDatabase
from dotmac.database.caching import (
    MISSING,
    CachePolicy,
    SmartCache,
    _client,
    close_redis_client,
    get_redis_client,
)
from dotmac.database.caching._link import linked
from dotmac.database.fastapi import database_lifespan


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
async def client(request, redis_url):
    async with Redis.from_url(redis_url, protocol=request.param) as client:
        yield client


@pytest.fixture
def make_cache(client):
    prefix = f"loading-{uuid.uuid4().hex}"

    def make(ttl=60, **policy):
        return SmartCache(
            "users", ttl, CachePolicy(timeout_seconds=10, **policy), client=client, prefix=prefix
        )

    return make


class Source:
    """A loader that waits until it is let go."""

    def __init__(self, value="loaded"):
        self.value = value
        self.loads = 0
        self.started = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self):
        self.loads += 1
        value = self.value
        self.started.set()
        await self.release.wait()
        if isinstance(value, Exception):
            raise value
        return value


async def expire(client, cache, text):
    """End the freshness of an entry, without waiting for it."""
    (key,) = [key async for key in client.scan_iter(f"{cache.made_with['prefix']}*:v:{text}")]
    stored = bytearray(await client.get(key))
    stored[28:36] = (1).to_bytes(8, "big")
    await client.set(key, bytes(stored), keepttl=True)


async def test_all_who_ask_at_once_share_one_load(make_cache):
    cache, source = make_cache(), Source(None)
    callers = [asyncio.create_task(cache.get_or_load("a", source)) for _ in range(50)]
    await source.started.wait()
    source.release.set()
    assert await asyncio.gather(*callers) == [None] * 50
    assert source.loads == 1
    assert await cache.get("a", default=MISSING) is None
    assert await cache.get_or_load("a", source) is None
    assert source.loads == 1
    assert (await cache.get_stats())["coalesced"] >= 49


@pytest.mark.parametrize("known", ["stored", "stale", "in memory", "loaded", "refused"])
async def test_no_caller_changes_what_another_is_given(make_cache, client, known):
    cache = make_cache(stale_seconds=60, memory_seconds=60 * (known == "in memory"))
    source = Source({"roles": []})
    if known in ("stored", "stale", "in memory"):
        await cache.set("a", {"roles": []})
    if known == "stale":
        await expire(client, cache, "a")
    if known == "in memory":
        await cache.get("warm-up")
        await cache._link().copies(cache._spaces[None].scope).serves()
        await cache.get("a")
    callers = [asyncio.create_task(cache.get_or_load("a", source)) for _ in range(5)]
    if known in ("loaded", "refused"):
        await source.started.wait()
    if known == "refused":
        await cache.delete("a")
    source.release.set()
    given = await asyncio.gather(*callers)
    stats = await cache.get_stats()
    assert (stats["memory_hits"], stats["refused"]) == (5 * (known == "in memory"), known == "refused")
    await linked(client).close()
    given[0]["roles"].append("admin")
    given[1]["roles"].append("owner")
    assert given[2:] == [{"roles": []}] * 3


async def test_a_signed_cache_does_not_share_the_reads_of_an_unsigned_one(make_cache, client):
    plain = make_cache()
    signed = SmartCache(
        "users", policy=plain.policy, client=client, prefix=plain.made_with["prefix"], signing_key="secret"
    )
    await plain.set("a", "forged")
    reads = [cache.get_or_load("a", lambda: "good") for cache in (plain, signed)]
    assert await asyncio.gather(*reads) == ["forged", "good"]


@pytest.mark.parametrize(
    "junk", [b"junk", b"{}", b"[]", b"\xff", b'{"from":"x","number":1,"scope":"s","keys":5}'], ids=repr
)
async def test_foreign_messages_end_no_subscription(make_cache, client, junk):
    cache, writer = make_cache(memory_seconds=60), make_cache()
    await writer.set("a", "old")
    await cache.get("warm-up")
    copies = cache._link().copies(cache._spaces[None].scope)
    await copies.serves()
    lost = copies._lost
    await client.publish(copies._channel, junk)
    await copies._hear_acknowledgements()
    await client.publish(copies._answers_to(copies._name), b"junk")
    assert [await cache.get("a"), await cache.get("a")] == ["old", "old"]
    await writer.set("a", "new")
    await copies._signals.ping(10, b"after all that was published")
    assert (copies.foreign, lost.is_set()) == (2, False)
    assert await cache.get("a") == "new"
    await linked(client).close()


async def test_a_cancelled_caller_cancels_nobody_else(make_cache):
    cache, source = make_cache(), Source()
    callers = [asyncio.create_task(cache.get_or_load("a", source)) for _ in range(3)]
    await source.started.wait()
    for caller in callers[:2]:
        caller.cancel()
    source.release.set()
    assert await callers[2] == "loaded"
    assert [caller.cancelled() for caller in callers] == [True, True, False]
    assert source.loads == 1


async def test_an_error_of_the_loader_reaches_everybody_and_is_not_kept(make_cache):
    cache, source = make_cache(), Source(RuntimeError("no such user"))
    callers = [asyncio.create_task(cache.get_or_load("a", source)) for _ in range(3)]
    await source.started.wait()
    source.release.set()
    errors = await asyncio.gather(*callers, return_exceptions=True)
    assert [str(error) for error in errors] == ["no such user"] * 3
    assert await asyncio.wait_for(cache.get_or_load("a", lambda: 1), 3) == 1


INVALIDATIONS = {
    "key": lambda cache: cache.delete("user", 1),
    "pattern": lambda cache: cache.invalidate_pattern("user:*"),
    "tag": lambda cache: cache.invalidate_tags("red"),
    "namespace": lambda cache: cache.invalidate_namespace(),
    "purge": lambda cache: cache.purge(),
}


@pytest.mark.parametrize("invalidate", INVALIDATIONS.values(), ids=INVALIDATIONS)
async def test_a_load_that_began_before_an_invalidation_is_not_stored(make_cache, invalidate):
    cache, old = make_cache(), Source("old")
    await cache.set("user", 2, "another", tags=["red"])
    before = asyncio.create_task(cache.get_or_load("user", 1, old, tags=["red"]))
    await old.started.wait()
    await invalidate(cache)
    after = asyncio.create_task(cache.get_or_load("user", 1, lambda: "new", tags=["red"]))
    await asyncio.sleep(0)
    old.release.set()
    assert await before == "old"
    assert await after == "new"
    assert await cache.get("user", 1) == "new"
    assert (await cache.get_stats())["refused"] == 1


async def test_a_load_is_not_stored_when_its_unknown_tag_is_invalidated_meanwhile(make_cache):
    cache, old = make_cache(), Source("old")
    before = asyncio.create_task(cache.get_or_load("a", old, tags=["red"]))
    await old.started.wait()
    await cache.invalidate_tags("red")
    old.release.set()
    assert await before == "old"
    assert (await cache.get_stats())["refused"] == 1
    assert await cache.get_or_load("a", lambda: "new", tags=["red"]) == "new"


async def test_a_tag_that_was_unknown_once_does_not_refuse_loads_for_the_sake_of_others(make_cache):
    cache = make_cache()

    async def load():
        await cache.invalidate_tags("another")
        return "loaded"

    await cache.get_or_load("a", load, tags=["red"])
    await cache.get_or_load("a", load, tags=["red"])
    assert await cache.get("a") == "loaded"


@pytest.mark.parametrize("how", ["set", "set_many"])
async def test_a_value_set_during_a_load_is_not_overwritten(make_cache, how):
    cache, old = make_cache(), Source("old")
    loading = asyncio.create_task(cache.get_or_load("a", old))
    await old.started.wait()
    await (cache.set("a", "set") if how == "set" else cache.set_many({"a": "set"}))
    old.release.set()
    await loading
    assert await cache.get("a") == "set"


async def test_a_load_that_ends_while_a_pattern_is_being_removed_is_not_stored(make_cache, monkeypatch):
    cache, old = make_cache(), Source("old")
    loading = asyncio.create_task(cache.get_or_load("user", 1, old))
    await old.started.wait()
    scan = cache._store.scan

    async def scan_slowly(exchange, pattern):
        async for keys in scan(exchange, pattern):
            yield keys
        old.release.set()  # after the values were looked at, before the leases are
        assert await loading == "old"

    monkeypatch.setattr(cache._store, "scan", scan_slowly)
    await cache.invalidate_pattern("user:*")
    assert await cache.get("user", 1, default=MISSING) is MISSING


async def test_a_token_stores_only_what_was_not_invalidated_since(make_cache):
    cache = make_cache().for_tenant("acme")
    token = await cache.begin("user", 1)
    assert await cache.begin("user", 1) is None  # another has it
    assert await cache.fill(token, "one") is True
    token = await cache.begin("user", 1)
    await cache.delete_many(["user:1", "user:2"])
    assert await cache.fill(token, "two") is False
    assert await cache.get("user", 1) is None
    token = await cache.begin("user", 1)
    await cache.release(token)
    assert await cache.begin("user", 1) is not None


async def test_a_stale_value_is_given_at_once_and_loaded_behind(make_cache, client):
    cache, source = make_cache(stale_seconds=60), Source("new")
    await cache.set("a", "old")
    await expire(client, cache, "a")
    assert await cache.get("a", default=MISSING) is MISSING
    assert await asyncio.gather(*[cache.get_or_load("a", source) for _ in range(5)]) == ["old"] * 5
    await source.started.wait()
    assert await cache.get_or_load("a", source) == "old"
    source.release.set()
    await asyncio.gather(*[flight.task for flight in cache._link().flights.values()])
    assert await cache.get("a") == "new"
    assert source.loads == 1
    assert (await cache.get_stats())["stale"] >= 2


async def test_within_the_soft_timeout_the_new_value_is_waited_for(make_cache, client):
    cache = make_cache(stale_seconds=60, soft_timeout=30)
    await cache.set("a", "old")
    await expire(client, cache, "a")
    assert await cache.get_or_load("a", lambda: "new") == "new"


async def test_a_refresh_that_is_older_than_the_stale_value_is_not_waited_for_in_vain(make_cache, client):
    cache, old = make_cache(stale_seconds=60, soft_timeout=0.01), Source("first")
    patient = make_cache(stale_seconds=60, soft_timeout=30)
    await cache.set("a", "first")
    await expire(client, cache, "a")
    assert await cache.get_or_load("a", old) == "first"
    await old.started.wait()
    await cache.set("a", "second")
    await expire(client, cache, "a")
    reading = asyncio.create_task(patient.get_or_load("a", lambda: "second"))
    async with asyncio.timeout(10):
        while not patient._space().counters.coalesced:  # noqa: ASYNC110 - counted as it begins to wait
            await asyncio.sleep(0)
    old.release.set()
    assert await reading == "second"


async def test_a_stale_value_is_given_when_loading_fails(make_cache, client):
    def fail():
        raise RuntimeError("the database is away")

    cache = make_cache(stale_seconds=60, soft_timeout=30)
    await cache.set("a", "old")
    await expire(client, cache, "a")
    assert await cache.get_or_load("a", fail) == "old"
    stats = await cache.get_stats()
    assert (stats["stale"], stats["errors"]) == (1, 1)
    with pytest.raises(RuntimeError, match="away"):
        await cache.get_or_load("b", fail)


async def test_a_load_ends_at_the_hard_timeout(make_cache):
    cache = make_cache(hard_timeout=0.05)
    with pytest.raises(TimeoutError):
        await cache.get_or_load("a", asyncio.Event().wait)
    assert await asyncio.wait_for(cache.get_or_load("a", lambda: 1), 3) == 1


@pytest.mark.parametrize(("value", "longest"), [(None, 20_000), ("Ada", 60_000)])
async def test_a_loaded_none_lives_as_long_as_the_policy_says(make_cache, client, value, longest):
    cache = make_cache(negative_ttl=20)
    await cache.get_or_load("a", lambda: value)
    (key,) = [key async for key in client.scan_iter(f"{cache.made_with['prefix']}*:v:a")]
    assert longest / 2 < await client.pttl(key) <= longest


async def test_times_to_live_are_shortened_at_random(make_cache, client):
    cache = make_cache(jitter=0.5)
    await cache.set_many({f"k:{number}": number for number in range(50)})
    lives = [await client.pttl(key) async for key in client.scan_iter(f"{cache.made_with['prefix']}*:v:*")]
    assert len(set(lives)) > 40
    assert 25_000 < min(lives) < max(lives) <= 60_000


async def test_a_lease_is_renewed_while_its_loader_runs(make_cache):
    first, second, source = make_cache(lease_seconds=0.3), make_cache(lease_seconds=0.3), Source()
    loading = asyncio.create_task(first.get_or_load("a", source))
    await source.started.wait()
    await asyncio.sleep(0.6)
    assert await second.begin("a") is None
    source.release.set()
    assert await loading == "loaded"
    assert await first.get("a") == "loaded"


async def test_a_lease_left_behind_ends_by_itself(make_cache):
    cache = make_cache(lease_seconds=0.2)
    assert await cache.begin("a") is not None
    assert await asyncio.wait_for(cache.get_or_load("a", lambda: 1), 5) == 1


async def test_two_event_loops_one_after_the_other_use_one_cache(redis_url, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_url)
    _client._process_wide.cache_clear()
    cache = SmartCache(
        "loops", policy=CachePolicy(timeout_seconds=10, memory_seconds=5), prefix=uuid.uuid4().hex
    )
    assert get_redis_client() is get_redis_client()

    async def work(number):
        await cache.get_or_load("n", lambda: number)
        await cache.set("n", number)
        return await cache.get("n"), await get_redis_client().ping()

    def run():
        return [asyncio.run(work(number)) for number in range(3)]

    assert await asyncio.to_thread(run) == [(0, True), (1, True), (2, True)]
    _client._process_wide.cache_clear()


async def test_the_lifespan_closes_the_connections(redis_url, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_url)
    _client._process_wide.cache_clear()
    policy = CachePolicy(timeout_seconds=10, memory_seconds=60)
    cache = SmartCache("lifespan", policy=policy, prefix=uuid.uuid4().hex)
    database = AsyncDatabase("sqlite+aiosqlite:///:memory:")
    name = uuid.uuid4().hex
    async with database_lifespan(database)(FastAPI()):
        await get_redis_client().client_setname(name)
        await cache.set("a", 1)
        await cache.get("a")
        await cache._link().copies(cache._spaces[None].scope).serves()
        subscription = cache._link().signals.connection
    assert not subscription.is_connected
    async with Redis.from_url(redis_url) as observer:
        assert name not in [client["name"] for client in await observer.client_list()]
    assert await cache.get("a") == 1  # and opens new ones when used again
    await close_redis_client()
    _client._process_wide.cache_clear()
