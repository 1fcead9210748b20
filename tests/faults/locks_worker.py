"""The processes of the locks' torture: each reads and writes two counters under a lock, until it is killed.

They are forks of this one, which has imported everything: the torture lives of new processes, and importing is slow. They
end with it, and it ends when nobody holds the other end of its standard input any more.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import traceback

import asyncpg
from redis.asyncio import Redis

from dotmac.database.coordination import PgAdvisoryLock, RedisLock
from dotmac.database.engine import create_async_engine
from dotmac.database.errors import LockError

READ = "UPDATE {t} SET highest = $1, holder = $2 WHERE highest <= $1 RETURNING value"
WRITE = "UPDATE {t} SET value = $2 + 1, writes = writes + 1 WHERE highest = $1"
UNFENCED_READ = "SELECT value FROM {t}_unfenced"
UNFENCED_WRITE = "UPDATE {t}_unfenced SET value = $1 + 1, writes = writes + 1"
GRANTED = "INSERT INTO {t}_grants VALUES ($1)"


def redis_locks(plan):
    client = Redis.from_url(plan["lock"])
    return lambda: RedisLock(plan["table"], ttl=0.5, wait=2, client=client)


def postgresql_locks(plan):
    engine = create_async_engine(plan["lock"], pool_size=2)
    return lambda: PgAdvisoryLock(
        plan["table"],
        wait=2,
        engine=engine,
        fenced=True,
        heartbeat=0.2,
        level=random.choice(["transaction", "session"]),  # noqa: S311 - no secret
    )


KINDS = {"redis": redis_locks, "postgresql": postgresql_locks}


async def work(plan):
    new_lock = KINDS[plan["kind"]](plan)
    resource = await asyncpg.connect(plan["resource"])
    while True:
        try:
            async with new_lock() as held:
                if held.acquired:
                    await count(resource, plan["table"], held.fencing_token)
        except LockError:
            await asyncio.sleep(0.02)


async def count(resource, table, token):
    """On purpose without a look at the lock: a late write is the resource's to refuse."""
    await resource.execute(GRANTED.format(t=table), token)
    fenced = await resource.fetchval(READ.format(t=table), token, os.getpid())
    unfenced = await resource.fetchval(UNFENCED_READ.format(t=table))
    await asyncio.sleep(random.uniform(0, 0.02))  # noqa: S311 - no secret
    await resource.execute(UNFENCED_WRITE.format(t=table), unfenced)
    written = "UPDATE 0"
    if fenced is not None:
        written = await resource.execute(WRITE.format(t=table), token, fenced)
    if written == "UPDATE 0":
        await resource.execute(f"UPDATE {table} SET refused = refused + 1")  # noqa: S608 - a constant


def fork(plan):
    pid = os.fork()
    if pid:
        return pid
    try:
        asyncio.run(work(plan))
    except BaseException:  # noqa: BLE001 - a fork must not go on with its parent's business
        traceback.print_exc()
    finally:
        os._exit(1)


def end(pid):
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(plan):
    running = set()
    try:
        for line in sys.stdin:
            command, *of_whom = line.split()
            if command == "start":
                answer = fork(plan)
                running.add(answer)
            else:
                pid = int(of_whom[0])
                running.remove(pid)
                answer = end(pid)
            print(answer, flush=True)  # noqa: T201 - the answer
    finally:
        for pid in running:
            end(pid)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
