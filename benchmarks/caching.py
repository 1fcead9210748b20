"""What a cache costs beside raw redis-py and its peers: ``python -m benchmarks.caching [--rounds N] [--redis-url URL]``."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import statistics
import time
import uuid
from contextlib import nullcontext
from urllib.parse import urlsplit

import orjson
from benchmarks.harness import Case, micros, ratio, report, run
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from dotmac.database.caching import CachePolicy, SmartCache
from dotmac.database.embedded import EmbeddedValkey

VALUE = {
    "id": str(uuid.uuid4()),
    "name": "Ada Lovelace",
    "email": "ada@example.com",
    "is_active": True,
    "balance_cents": 129_900,
    "tags": ["a", "b", "c"],
    "created_at": "2026-01-01T00:00:00+00:00",
}
PATIENT = CachePolicy(timeout_seconds=10)


def build(redis: Redis, url: str) -> list[Case]:
    prefix = f"bench-{uuid.uuid4().hex}"
    cache = SmartCache("users", 300, PATIENT, client=redis, prefix=prefix)
    copied = SmartCache(
        "copied", 300, CachePolicy(timeout_seconds=10, memory_seconds=300), client=redis, prefix=prefix
    )
    encoded = orjson.dumps(VALUE)

    async def raw_get(n):
        for _ in range(n):
            await redis.get("bench:raw")

    async def raw_get_decode(n):
        for _ in range(n):
            orjson.loads(await redis.get("bench:raw"))

    async def blocking_get(n):
        for _ in range(n):
            blocking.get("bench:raw")

    async def blocking_set(n):
        for _ in range(n):
            blocking.set("bench:raw", encoded, px=300_000)

    async def ours_get(n):
        for _ in range(n):
            assert await cache.get("user", 1)

    async def ours_copy(n):
        for _ in range(n):
            assert await copied.get("user", 1)

    async def raw_set(n):
        for _ in range(n):
            await redis.set("bench:raw", encoded, px=300_000)

    async def ours_set(n):
        for _ in range(n):
            await cache.set("user", 1, VALUE)

    keys = [f"bench:many:{number}" for number in range(100)]
    our_keys = [("many", number) for number in range(100)]

    async def raw_many(n):
        for _ in range(n):
            assert len([orjson.loads(found) for found in await redis.mget(keys)]) == 100

    async def ours_many(n):
        for _ in range(n):
            assert len(await cache.get_many(our_keys)) == 100

    async def prepare():
        await redis.set("bench:raw", encoded)
        await redis.mset(dict.fromkeys(keys, encoded))
        await cache.set_many({**dict.fromkeys(our_keys, VALUE), ("user", 1): VALUE})
        await copied.set("user", 1, VALUE)
        await copied.get("warm-up")
        await asyncio.sleep(0.5)  # until copies are served
        await copied.get("user", 1)

    get = {"raw GET": raw_get, "dotmac": ours_get, "raw GET + orjson": raw_get_decode}
    set_ = {"raw SET": raw_set, "dotmac": ours_set}
    blocking = BlockingRedis.from_url(url)
    memory = {"raw GET": raw_get, "dotmac, in memory": ours_copy}
    for name, (peer_get, peer_set) in peers(url).items():
        get[name], set_[name] = peer_get, peer_set
    if "dogpile.cache, blocking" in get:
        get["raw GET, blocking"], set_["raw SET, blocking"] = blocking_get, blocking_set
    many = {"raw MGET + orjson": raw_many, "dotmac": ours_many}
    cases = [
        Case("cache: get, a hit", get, times=300, bar=1.15, clock="cpu"),
        Case("cache: get, a hit in memory (bar: 5 us)", memory, times=1000),
        Case("cache: set", set_, times=300, bar=1.20, clock="cpu"),
        Case("cache: get 100 keys", many, times=20, bar=1.50),
    ]
    for case in cases:
        case.prepare = prepare
    return cases


def peers(url: str):
    found = {}
    try:
        cashews = importlib.import_module("cashews").Cache()
        cashews.setup(url, client_side=False)

        async def cashews_get(n):
            await cashews.set("bench:cashews", VALUE, expire=300)
            for _ in range(n):
                assert await cashews.get("bench:cashews")

        async def cashews_set(n):
            for _ in range(n):
                await cashews.set("bench:cashews", VALUE, expire=300)

        found["cashews"] = (cashews_get, cashews_set)
    except ImportError:
        pass
    try:
        aiocache = importlib.import_module("aiocache")
        serializer = importlib.import_module("aiocache.serializers").JsonSerializer()
        address = urlsplit(url)
        peer = aiocache.RedisCache(
            endpoint=address.hostname, port=address.port, password=address.password, serializer=serializer
        )

        async def aiocache_get(n):
            await peer.set("bench:aiocache", VALUE, ttl=300)
            for _ in range(n):
                assert await peer.get("bench:aiocache")

        async def aiocache_set(n):
            for _ in range(n):
                await peer.set("bench:aiocache", VALUE, ttl=300)

        found["aiocache"] = (aiocache_get, aiocache_set)
    except ImportError:
        pass
    try:
        region = importlib.import_module("dogpile.cache").make_region()
        region.configure("dogpile.cache.redis", expiration_time=300, arguments={"url": url})

        async def dogpile_get(n):
            region.set("bench:dogpile", VALUE)
            for _ in range(n):
                assert region.get("bench:dogpile")

        async def dogpile_set(n):
            for _ in range(n):
                region.set("bench:dogpile", VALUE)

        found["dogpile.cache, blocking"] = (dogpile_get, dogpile_set)
    except ImportError:
        pass
    return found


async def invalidations(redis: Redis, rounds: int) -> list[dict]:
    """Milliseconds to invalidate 100,000 keys by generation, and 10,000 of 100,000 by pattern; the slowest command."""
    cache = SmartCache(
        "many", 300, CachePolicy(timeout_seconds=30), client=redis, prefix=f"bench-{uuid.uuid4().hex}"
    )
    generation, pattern, slowest = [], [], []
    await redis.config_set("slowlog-log-slower-than", 1000)
    for _ in range(rounds):
        for group in range(10):
            await cache.set_many({f"{group}:{number}": number for number in range(10_000)})
        await redis.slowlog_reset()
        began = time.perf_counter()
        gone = await cache.invalidate_pattern("3:*")
        pattern.append((time.perf_counter() - began) * 1000)
        assert gone == 10_000
        slowest.append(max([entry["duration"] for entry in await redis.slowlog_get(1000)], default=0) / 1000)
        began = time.perf_counter()
        await cache.invalidate_namespace()
        generation.append((time.perf_counter() - began) * 1000)
        assert await cache.get("4", 1) is None
        await redis.flushdb()
    return [
        {"name": "invalidate 100,000 keys by generation", "bar_ms": 2, "ms": statistics.median(generation)},
        {"name": "invalidate 10,000 of 100,000 by pattern", "bar_ms": 500, "ms": statistics.median(pattern)},
        {"name": "… its slowest command", "bar_ms": 10, "ms": max(slowest)},
    ]


async def compare(url: str, rounds: int, only: str) -> list[dict]:
    lines = []
    async with Redis.from_url(url) as redis:
        for case in build(redis, url):
            if only not in case.name:
                continue
            await case.prepare()
            timings = await run(case, rounds)
            baseline = next(iter(timings))
            lines += [
                {
                    "case": case.name,
                    "name": name,
                    "wall_us": round(micros(timing.wall), 2),
                    "cpu_us": round(micros(timing.cpu), 2),
                    "wall_ratio": round(ratio(timing, timings[baseline], "wall"), 3),
                    "cpu_ratio": round(ratio(timing, timings[baseline], "cpu"), 3),
                    "bar": case.bar if name.startswith("dotmac") else None,
                }
                for name, timing in timings.items()
            ]
        if only in "invalidate":
            lines += await invalidations(redis, max(rounds // 5, 1))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.caching", description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--only", default="")
    parser.add_argument("--redis-url", help="a Redis to use (it is emptied) instead of the embedded Valkey")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    server = nullcontext() if options.redis_url else EmbeddedValkey(tcp=True)
    with server:
        url = options.redis_url or server.tcp_url
        report(asyncio.run(compare(url, options.rounds, options.only)), as_json=options.json)


if __name__ == "__main__":
    main()
