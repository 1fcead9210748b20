"""Several processes on one cache: one load for all, and no old value after an invalidation has returned."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from contextlib import suppress
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
        pairs = [socket.socketpair() for _ in range(count)]
        theirs = [pair[1] for pair in pairs]
        descriptors = [their.fileno() for their in theirs]
        self.parent = subprocess.Popen(
            [sys.executable, "-W", "error", WORKER, url, prefix, role, *map(str, descriptors)],
            pass_fds=descriptors,
            start_new_session=True,
        )
        for their in theirs:
            their.close()
        self.sockets = [pair[0] for pair in pairs]
        self.files = [ours.makefile("rw") for ours in self.sockets]

    def __enter__(self):
        try:
            self.pids = [int(file.readline()) for file in self.files]
        except BaseException:
            self.__exit__()
            raise
        return self

    def go(self):
        for file in self.files:
            file.write("go\n")
            file.flush()

    def reports(self):
        found = [json.loads(file.readline()) for file in self.files]
        assert self.parent.wait(30) == 0
        return found

    def __exit__(self, *_error):
        with suppress(ProcessLookupError):
            os.killpg(self.parent.pid, signal.SIGKILL)
        self.parent.wait()
        for closing in (*self.files, *self.sockets):
            closing.close()


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
        with redis.monitor() as monitor:
            workers.go()
            for _ in range(3):  # the three that wait have subscribed when the loader may end
                while not monitor.next_command()["command"].startswith("SUBSCRIBE"):
                    pass
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
            (process,) = workers.pids
            os.kill(process, signal.SIGSTOP)
            await cache.set("a", "new")  # returns though the process cannot answer
            os.kill(process, signal.SIGCONT)
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
