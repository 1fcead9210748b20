"""One of the processes of the locks' torture: reads and writes a counter under a lock, until it is told to end."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys

import asyncpg
from redis.asyncio import Redis

from dotmac.database.coordination import RedisLock
from dotmac.database.errors import LockError

READ = "UPDATE {t} SET highest = $1, holder = $2 WHERE highest <= $1 RETURNING value"
WRITE = "UPDATE {t} SET value = $2 + 1, writes = writes + 1 WHERE highest = $1 RETURNING value"
UNFENCED_READ = "UPDATE {t} SET highest = greatest(highest, $1), holder = $2 RETURNING value"
UNFENCED_WRITE = "UPDATE {t} SET value = $2 + 1, writes = writes + 1 WHERE $1::bigint > 0 RETURNING value"


async def main(plan):
    table = plan["table"]
    read, write = (READ, WRITE) if plan["fenced"] else (UNFENCED_READ, UNFENCED_WRITE)
    resource = await asyncpg.connect(plan["resource"])
    client = Redis.from_url(plan["redis"])
    while True:
        try:
            async with RedisLock(table, ttl=0.5, wait=2, client=client) as held:
                if not held.acquired:
                    continue
                token = held.fencing_token
                await resource.execute(f"INSERT INTO {table}_grants VALUES ($1)", token)  # noqa: S608 - a constant
                value = await resource.fetchval(read.format(t=table), token, os.getpid())
                if value is None:
                    await refused(resource, table)
                    continue
                await asyncio.sleep(random.uniform(0, 0.02))  # noqa: S311 - no secret
                # On purpose without a look at the lock: a late write is the resource's to refuse.
                if await resource.fetchval(write.format(t=table), token, value) is None:
                    await refused(resource, table)
        except LockError:
            await asyncio.sleep(0.02)


async def refused(resource, table):
    await resource.execute(f"UPDATE {table} SET refused = refused + 1")  # noqa: S608 - a constant


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
