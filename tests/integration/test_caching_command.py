"""``dotmac-db cache`` and warming: what is there is shown, emptied and filled, and errors are one line."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid

import pytest
from redis.asyncio import Redis

from dotmac.database.caching import CachePolicy, SmartCache, WarmReport

MODULE = """
from dotmac.database.caching import CachePolicy, SmartCache

cache = SmartCache("warmed", policy=CachePolicy(timeout_seconds=10), prefix={prefix!r})

async def load(key):
    if key == "key:3":
        raise RuntimeError("no such row")
    return key

async def warm_some(progress):
    return await cache.warm([f"key:{{n}}" for n in range({count})], load, progress=progress)
"""


FORKING = """
import json, os, sys
import dotmac.database.caching
from dotmac.database.cli import _main, main

for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        for descriptor, path in enumerate((os.devnull, order["out"], order["err"])):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), descriptor)
        os.chdir(order["directory"])
        os.environ["REDIS_URL"] = order["url"]
        sys.argv[1:] = ["cache", *order["words"]]
        main()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Runs the command as a process of its own, without importing everything once more for each."""


@pytest.fixture(scope="module")
def forking():
    process = subprocess.Popen(
        [sys.executable, "-c", FORKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process
        process.stdin.close()


@pytest.fixture
def forked_command(forking, redis_url, tmp_path):
    def run(*words, url=redis_url):
        out, err = tmp_path / "out", tmp_path / "err"
        order = {"words": words, "url": url, "directory": str(tmp_path), "out": str(out), "err": str(err)}
        forking.stdin.write(f"{json.dumps(order)}\n")
        forking.stdin.flush()
        code = int(forking.stdout.readline())
        return subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())

    return run


@pytest.fixture
def prefix():
    return f"command-{uuid.uuid4().hex}"


@pytest.fixture
def command(redis_url, tmp_path):
    def run(*words, url=redis_url):
        return subprocess.run(
            [sys.executable, "-c", "from dotmac.database.cli import main; main()", "cache", *words],
            capture_output=True,
            text=True,
            env={**os.environ, "REDIS_URL": url},
            cwd=tmp_path,
            check=False,
        )

    return run


@pytest.fixture
async def cache(redis_url, prefix):
    async with Redis.from_url(redis_url) as client:
        yield SmartCache("users", policy=CachePolicy(timeout_seconds=10), client=client, prefix=prefix)


async def test_caches_are_shown_and_emptied(forked_command, cache, prefix):
    command = forked_command
    await cache.set_many({"a": 1, "b": 2})
    await cache.get("a")
    await cache.for_tenant("acme:eu").set("a", 1)
    await cache.get_stats()
    shown = await asyncio.to_thread(command, "stats", "--prefix", prefix, "--json")
    assert shown.returncode == 0, shown.stderr
    spaces = {(space["namespace"], space["tenant"]): space for space in json.loads(shown.stdout)["caches"]}
    assert {name: space["entries"] for name, space in spaces.items()} == {
        ("users", None): 2,
        ("users", "acme:eu"): 1,
    }
    assert spaces["users", None]["hit_rate"] == 1.0
    assert "acme:eu" in (await asyncio.to_thread(command, "stats", "--prefix", prefix)).stdout

    words = ("purge", "--namespace", "users", "--prefix", prefix)
    one = await asyncio.to_thread(command, *words, "--tenant", "acme:eu", "--json")
    assert json.loads(one.stdout)["removed"] == 1
    assert await cache.get("a") == 1
    every = await asyncio.to_thread(command, *words, "--all-tenants")
    assert every.stdout == "Removed 2 entries.\n"
    assert await cache.get("a") is None


def test_an_applications_function_warms(command, tmp_path, prefix):
    (tmp_path / "shop_caches.py").write_text(MODULE.format(prefix=prefix, count=3))
    first = command("warm", "shop_caches:warm_some", "--json")
    assert first.returncode == 0, first.stderr
    report = json.loads(first.stdout)
    assert (report["total"], report["loaded"], report["present"], report["failed"]) == (3, 3, 0, 0)
    (tmp_path / "shop_caches.py").write_text(MODULE.format(prefix=prefix, count=5))
    second = command("warm", "shop_caches:warm_some")
    assert second.returncode == 1
    assert second.stdout.startswith("1 loaded, 3 there already, 1 failed of 5 keys")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("warm", "nothing"), "MODULE:FUNCTION"),
        (("warm", "no_such_module:f"), "There is no module 'no_such_module'"),
        (("warm", "json:f"), "has no function 'f'"),
        (("stats",), "Redis does not answer"),
        (("purge", "--namespace", "x"), "Redis does not answer"),
    ],
)
def test_errors_are_one_line(forked_command, words, says):
    run = forked_command(*words, url="redis://:secret@127.0.0.1:1/0")
    assert run.returncode in (1, 2)
    assert says in run.stderr
    assert "Traceback" not in run.stderr
    assert "secret" not in run.stderr


async def test_warming_loads_a_bounded_number_at_a_time_and_tells(cache):
    running, most, told = 0, 0, []

    async def load(key):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return key

    keys = [("user", number) for number in range(30)]
    report = await cache.warm(keys, load, concurrency=3, progress=lambda *done: told.append(done))
    assert (report.loaded, report.present, report.failed, report.is_leader) == (30, 0, 0, True)
    assert most <= 3
    assert told == [(number, 30) for number in range(1, 31)]
    assert (await cache.warm(keys, load)).present == 30


async def test_one_of_several_warms_a_set_of_keys(cache):
    started, go = asyncio.Event(), asyncio.Event()

    async def load(key):
        started.set()
        await go.wait()
        return key

    first = asyncio.create_task(cache.warm(["a", "b"], load))
    await started.wait()
    assert await cache.warm(["b", "a"], load) == WarmReport(2, is_leader=False)
    go.set()
    assert (await first).loaded == 2


async def test_a_decorated_function_runs_once_for_its_arguments(cache):
    calls = []

    @cache.cached("user")
    async def find(user_id, *, full=False):
        calls.append((user_id, full))

    @cache.cached(key=lambda user_id, **_rest: (user_id,))
    async def other(user_id, session=None):
        return (user_id,)

    assert [await find(1), await find(1), await find(user_id=1), await find(1, full=True)] == [None] * 4
    assert calls == [(1, False), (1, True)]
    await find("1")
    await find("1")
    assert calls[2:] == [("1", False)]
    assert await other(1, session=object()) == (1,)
    assert await other(1) == (1,)
    assert await cache.invalidate_pattern("user:1*") == 2
    with pytest.raises(TypeError, match="async"):
        cache.cached("a")(lambda: 1)
