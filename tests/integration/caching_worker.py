"""Several processes that use the same cache: ``python caching_worker.py URL PREFIX ROLE SOCKET…``, one for each socket.

Each sends its process id when it is connected, begins when it is sent a line, and sends what it saw as JSON. They are
forked after the imports, which take longer than the work.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import socket
import sys

from redis.asyncio import Redis

from dotmac.database.caching import CachePolicy, SmartCache

PROCESSES = 4
CHANGES = int(os.environ.get("DOTMAC_TEST_CACHE_CHANGES", "24"))


async def stampede(redis, prefix, number, test):
    cache = SmartCache("s", policy=CachePolicy(timeout_seconds=10), client=redis, prefix=prefix)
    await cache.get("warm-up")
    loads = 0

    async def load():
        nonlocal loads
        loads += 1
        await redis.incr(f"{prefix}:loads")
        await redis.blpop(f"{prefix}:go")  # when all processes have asked
        return {"from": number}

    await turn(test)
    values = await asyncio.gather(*[cache.get_or_load("hot", load) for _ in range(25)])
    return {"loads": loads, "values": [value["from"] for value in values]}


class Coherence:
    """Changes keys of its own and reads everybody's: nothing older than what was acknowledged may be seen."""

    def __init__(self, redis, prefix, number):
        self.redis, self.prefix, self.number = redis, prefix, number
        policy = CachePolicy(timeout_seconds=10, memory_seconds=60)
        self.cache = SmartCache("c", policy=policy, client=redis, prefix=prefix)
        self.keys = [f"{process}:{key}" for process in range(PROCESSES) for key in range(2)]
        self.stale, self.reads, self.done = [], 0, False

    async def load(self, key):
        return int(await self.redis.get(f"{self.prefix}:truth:{key}") or 0)

    async def read(self):
        while not self.done:
            for key in self.keys:
                acknowledged = int(await self.redis.get(f"{self.prefix}:acknowledged:{key}") or 0)
                for _ in range(2):
                    seen = await self.cache.get_or_load(key, functools.partial(self.load, key))
                    self.reads += 1
                    if seen < acknowledged:
                        self.stale.append([key, seen, acknowledged])
                await asyncio.sleep(0.002)  # four processes share few cores with what they wait for

    async def change(self, number):
        key = f"{self.number}:{number % 2}"
        await self.redis.set(f"{self.prefix}:truth:{key}", number)
        if number % 5 == 0:
            await self.cache.set(key, number)
        elif number % 7 == 0:
            await self.cache.invalidate_namespace()
        elif number % 11 == 0:
            await self.cache.invalidate_pattern(f"{self.number}:*")
        else:
            await self.cache.delete(key)
        await self.redis.set(f"{self.prefix}:acknowledged:{key}", number)


async def coherence(redis, prefix, number, test):
    work = Coherence(redis, prefix, number)
    await serving_copies(work.cache)
    await turn(test)
    reader = asyncio.create_task(work.read())
    change, counters = 0, work.cache._space().counters
    # On a busy machine for longer: without copies in memory there would be nothing to see.
    while change < CHANGES or (not counters.memory_hits and change < 20 * CHANGES):
        change += 1
        await work.change(change)
    work.done = True
    await reader
    stats = await work.cache.get_stats()
    report = {name: stats[name] for name in ("memory_hits", "errors")}
    return {"stale": work.stale, "reads": work.reads, **report}


async def keep_copy(redis, prefix, number, test):
    """Serve a copy from memory until it is told to report."""
    cache = SmartCache(
        "k", policy=CachePolicy(timeout_seconds=10, memory_seconds=600), client=redis, prefix=prefix
    )
    await serving_copies(cache)
    await cache.get("a")
    await cache.get("a")
    assert (await cache.get_stats())["memory_hits"] == 1
    await turn(test)
    return {"value": await cache.get("a")}


async def serving_copies(cache):
    await cache.get("warm-up")
    await cache._link().copies(cache._spaces[None].scope).serves()


async def turn(test):
    test.write(f"{os.getpid()}\n")
    test.flush()
    await asyncio.to_thread(test.readline)


async def play(url, prefix, role, number, test):
    async with Redis.from_url(url) as redis:
        report = await globals()[role](redis, prefix, number, test)
    test.write(f"{json.dumps(report)}\n")
    test.flush()


def main():
    url, prefix, role, *sockets = sys.argv[1:]
    children = []
    for number, descriptor in enumerate(sockets):
        child = os.fork()
        if child == 0:
            for another in sockets[number + 1 :]:  # whoever ends is to be heard ending
                os.close(int(another))
            with socket.socket(fileno=int(descriptor)) as connection, connection.makefile("rw") as test:
                asyncio.run(play(url, prefix, role, number, test))
            return
        os.close(int(descriptor))
        children.append(child)
    for child in children:
        _, status = os.waitpid(child, 0)
        assert status == 0, status


if __name__ == "__main__":
    main()
