"""What a lock costs beside one raw GET and its peers: ``python -m benchmarks.locks [--rounds N] [--redis-url URL]``."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import statistics
import time
import uuid
from contextlib import AsyncExitStack, nullcontext

from benchmarks.harness import Case, micros, ratio, report, run
from redis.asyncio import Redis

from dotmac.database.coordination import RedisLock
from dotmac.database.embedded import EmbeddedValkey

WAITERS = 8
TTL_SECONDS = 30


def contenders(name: str):
    """Makes an async context manager of a client; each waits as long as it takes."""
    found = {
        "dotmac": lambda client: RedisLock(name, ttl=TTL_SECONDS, wait=60, client=client),
        "redis-py Lock": lambda client: client.lock(name, timeout=TTL_SECONDS),
    }
    try:
        redlock = importlib.import_module("pottery").AIORedlock
    except ImportError:
        return found
    found["pottery"] = lambda client: redlock(key=name, masters={client}, auto_release_time=TTL_SECONDS)
    return found


def build(redis: Redis) -> Case:
    async def raw_get(n):
        for _ in range(n):
            await redis.get("bench:raw")

    def locking(make):
        async def lock(n):
            for _ in range(n):
                async with make(redis):
                    pass

        return lock

    async def prepare():
        await redis.set("bench:raw", "x" * 100)

    makers = contenders(f"bench-{uuid.uuid4().hex}")
    case = Case("lock + unlock", {"raw GET": raw_get}, times=200, bar=2.6, prepare=prepare)
    case.contenders |= {name: locking(make) for name, make in makers.items()}
    return case


async def handoffs(clients: list[Redis], make) -> list[float]:
    """Milliseconds from the begin of each release to the next of the waiters having the lock; each waits once."""
    released: list[float] = []
    taken: list[float] = []

    async def wait(client):
        async with make(client):
            taken.append(time.perf_counter())
            await asyncio.sleep(0.002)
            released.append(time.perf_counter())

    async with make(clients[0]):
        waiters = [asyncio.create_task(wait(client)) for client in clients]
        await asyncio.sleep(0.2)  # until all of them wait
        released.append(time.perf_counter())
    await asyncio.gather(*waiters)
    return [(had - gave) * 1000 for gave, had in zip(released, taken, strict=False)]


async def compare(url: str, rounds: int) -> list[dict]:
    lines = []
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Redis.from_url(url)) for _ in range(WAITERS)]
        case = build(clients[0])
        await case.prepare()
        timings = await run(case, rounds)
        lines += [
            {
                "case": case.name,
                "name": name,
                "wall_us": round(micros(timing.wall), 1),
                "cpu_us": round(micros(timing.cpu), 1),
                "wall_ratio": round(ratio(timing, timings["raw GET"], "wall"), 3),
                "cpu_ratio": round(ratio(timing, timings["raw GET"], "cpu"), 3),
                "bar": case.bar if name == "dotmac" else None,
            }
            for name, timing in timings.items()
        ]
        places = {"a client each": clients, "one client": clients[:1] * WAITERS}
        makers = contenders(f"bench-{uuid.uuid4().hex}")
        found = {(place, name): [] for place in places for name in makers}
        for _ in range(rounds):
            for (place, name), milliseconds in found.items():
                milliseconds.extend(await handoffs(places[place], makers[name]))
        lines += [
            {
                "case": f"handoff among {WAITERS} waiters, {place}",
                "name": name,
                "median_ms": round(statistics.median(milliseconds), 2),
                "slowest_ms": round(max(milliseconds), 2),
                "bar_ms": 5 if name == "dotmac" else None,
            }
            for (place, name), milliseconds in found.items()
        ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.locks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--redis-url", help="a Redis to use instead of the embedded Valkey")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    server = nullcontext() if options.redis_url else EmbeddedValkey(tcp=True)
    with server:
        url = options.redis_url or server.tcp_url
        report(asyncio.run(compare(url, options.rounds)), as_json=options.json)


if __name__ == "__main__":
    main()
