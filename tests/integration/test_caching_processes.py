"""Several processes on one cache: one load for all, and no old value after an invalidation has returned."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from dotmac.database.caching import CachePolicy, SmartCache
from dotmac.database.embedded import EmbeddedValkey

WORKER = Path(__file__).with_name("caching_worker.py")


class Workers:
    """Processes of one role, started and at the line."""

    def __init__(self, url, prefix, role, count):
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-W", "error", WORKER, url, prefix, role, str(number)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(count)
        ]

    def __enter__(self):
        for process in self.processes:
            assert process.stdout.readline() == "ready\n"
        return self

    def go(self):
        for process in self.processes:
            process.stdin.write("go\n")
            process.stdin.flush()

    def reports(self):
        found = [json.loads(process.stdout.readline()) for process in self.processes]
        assert [process.wait(30) for process in self.processes] == [0] * len(self.processes)
        return found

    def __exit__(self, *_error):
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


@pytest.fixture
def prefix():
    return f"processes-{uuid.uuid4().hex}"


def test_four_processes_with_25_callers_each_load_once(prefix):
    with (
        EmbeddedValkey(tcp=True) as server,
        BlockingRedis.from_url(server.tcp_url) as redis,
        Workers(server.tcp_url, prefix, "stampede", 4) as workers,
    ):
        redis.config_resetstat()
        workers.go()
        while redis.info("commandstats").get("cmdstat_subscribe", {"calls": 0})["calls"] < 3:
            pass  # the three that wait have subscribed when the loader may end
        redis.rpush(f"{prefix}:go", 1)
        reports = workers.reports()
        assert sum(report["loads"] for report in reports) == 1
        assert redis.get(f"{prefix}:loads") == b"1"
        assert len({value for report in reports for value in report["values"]}) == 1
        ours = {"mget", "evalsha", "eval", "subscribe", "unsubscribe", "publish"}
        calls = {
            name.removeprefix("cmdstat_"): figures["calls"]
            for name, figures in redis.info("commandstats").items()
        }
        assert sum(count for name, count in calls.items() if name in ours) <= 60, calls


def test_no_process_sees_an_old_value_after_the_invalidation_has_returned(redis_url, prefix):
    with Workers(redis_url, prefix, "coherence", 4) as workers:
        workers.go()
        reports = workers.reports()
    assert [report["stale"] for report in reports] == [[]] * 4
    assert [report["errors"] for report in reports] == [0] * 4
    assert all(report["memory_hits"] for report in reports), reports


async def test_an_invalidation_waits_for_a_frozen_process_only_until_its_lease_ends(redis_url, prefix):
    async with Redis.from_url(redis_url) as client:
        cache = SmartCache("k", policy=CachePolicy(timeout_seconds=10), client=client, prefix=prefix)
        await cache.set("a", "old")
        with Workers(redis_url, prefix, "keep_copy", 1) as workers:
            (process,) = workers.processes
            process.send_signal(signal.SIGSTOP)
            await cache.set("a", "new")  # returns though the process cannot answer
            process.send_signal(signal.SIGCONT)
            workers.go()
            assert workers.reports() == [{"value": "new"}]


async def test_an_invalidation_waits_for_no_process_that_has_left(redis_url, prefix):
    async with Redis.from_url(redis_url) as client:
        cache = SmartCache("k", policy=CachePolicy(timeout_seconds=10), client=client, prefix=prefix)
        await cache.set("a", "old")
        with Workers(redis_url, prefix, "keep_copy", 2) as workers:
            workers.go()
            assert workers.reports() == [{"value": "old"}] * 2
        assert await client.zcard(f"{{dotmac-copies}}:{prefix}") == 0
        assert await cache.delete("a") is True
