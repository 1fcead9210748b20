"""The same cache on Redis Cluster, behind Sentinel and on a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import time
import uuid

import pytest
from redis import Redis as BlockingRedis
from redis.exceptions import RedisError

from dotmac.database.caching import MISSING, CachePolicy, SmartCache
from dotmac.database.caching._client import RedisServer
from dotmac.database.coordination import RedisLock
from dotmac.database.embedded import EmbeddedValkey
from dotmac.database.embedded._binaries import find_valkey
from dotmac.database.errors import LockUnavailableError

# redis-py 7.4's own cluster client uses what redis-py 7.4 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*lib_name:DeprecationWarning")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port):
    with contextlib.suppress(RedisError), BlockingRedis(port=port) as client:
        return client.ping()
    return False


def until(condition, *arguments):
    end = time.monotonic() + 30
    while not condition(*arguments):
        assert time.monotonic() < end
        time.sleep(0.05)  # servers that start tell nobody


@contextlib.contextmanager
def server(directory, port, configuration, *options):
    directory.mkdir()
    file = directory / "server.conf"
    file.write_text(f"bind 127.0.0.1\nport {port}\ndir {directory}\n{configuration}\n")
    process = subprocess.Popen([find_valkey(), file, *options], stdout=subprocess.DEVNULL)
    try:
        until(answers, port)
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def cluster_url(tmp_path):
    ports = [free_port() for _ in range(2)]
    with contextlib.ExitStack() as stack:
        for port in ports:
            configuration = f"cluster-enabled yes\ncluster-port {free_port()}\nsave ''"
            stack.enter_context(server(tmp_path / str(port), port, configuration))
        with BlockingRedis(port=ports[0]) as first, BlockingRedis(port=ports[1]) as second:
            first.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
            second.execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
            second.execute_command("CONFIG", "SET", "cluster-require-full-coverage", "no")
            bus = second.config_get("cluster-port")["cluster-port"]
            first.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[1], bus)
            for node in (first, second):
                until(lambda node=node: node.cluster("info")["cluster_known_nodes"] == "2")
                until(lambda node=node: node.cluster("info")["cluster_state"] == "ok")
        yield f"redis+cluster://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}"


@pytest.fixture
def sentinel_url(tmp_path):
    primary, sentinel = free_port(), free_port()
    watch = f"sentinel monitor main 127.0.0.1 {primary} 1"
    with (
        server(tmp_path / "primary", primary, "save ''"),
        server(tmp_path / "sentinel", sentinel, watch, "--sentinel"),
    ):
        yield f"redis+sentinel://127.0.0.1:{sentinel}/main/3"


@contextlib.contextmanager
def broken_sentinel(how):
    """The address of a Sentinel that refuses connections, or that takes them and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if how == "silent":
            listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def unix_url():
    with EmbeddedValkey() as valkey:
        yield valkey.url


@pytest.fixture(params=["cluster_url", "sentinel_url", "unix_url"])
async def redis(request):
    server = RedisServer(request.getfixturevalue(request.param), max_connections=20)
    yield server.client()
    await server.close()


async def test_the_cache_does_the_same_everywhere(redis):
    prefix = uuid.uuid4().hex
    policy = CachePolicy(timeout_seconds=10, memory_seconds=60, quota=10_000)
    cache, other = (SmartCache("c", policy=policy, client=redis, prefix=prefix) for _ in range(2))
    tenants = [f"tenant {number}" for number in range(4)]
    for tenant in tenants:
        space, seen = cache.for_tenant(tenant), other.for_tenant(tenant)
        await space.set_many({f"user:{number}": number for number in range(1200)})
        assert await space.get_many(["user:1", "user:2000"]) == {"user:1": 1}
        await space.set("tagged", tenant, tags=["t", "u"])
        assert await seen.get("tagged") == tenant
        await space.invalidate_tags("t")
        assert await seen.get("tagged") is None
        assert await space.get_or_load("loaded", lambda: None) is None
        assert await space.invalidate_pattern("user:1*") == 311
        token = await space.begin("user", 5)
        assert await space.delete("user", 5) is True
        assert await space.fill(token, "old") is False
    await cache.for_tenant(tenants[0]).invalidate_namespace()
    assert await other.for_tenant(tenants[0]).get("user", 2) is None
    assert await other.for_tenant(tenants[1]).get("user", 2) == 2
    assert await cache.for_tenant(tenants[1]).purge() > 800
    for tenant in tenants:
        assert (await cache.for_tenant(tenant).get_stats())["errors"] == 0


async def test_copies_are_coherent_everywhere(redis):
    prefix = uuid.uuid4().hex
    policy = CachePolicy(timeout_seconds=10, memory_seconds=60)
    cache = SmartCache("c", policy=policy, client=redis, prefix=prefix)
    await cache.set("a", "old")
    await cache.get("warm-up")
    await cache._link().copies(cache._spaces[None].scope).serves()
    assert [await cache.get("a"), await cache.get("a")] == ["old", "old"]
    assert (await cache.get_stats())["memory_hits"] == 1
    await cache.set("a", "new")
    assert await cache.get("a") == "new"
    assert (await cache.get_stats())["errors"] == 0


@pytest.mark.parametrize("how", ["refuses", "silent"])
async def test_a_sentinel_that_is_down_does_not_hide_the_next(sentinel_url, how):
    with broken_sentinel(how) as address:
        server = RedisServer(sentinel_url.replace("//", f"//{address},"))
        try:
            client = server.client()
            pools = server.pool().of_this_loop.inner_pools
            cache = SmartCache("c", policy=CachePolicy(timeout_seconds=2), client=client)
            await cache.get("a")  # one that is silent takes this one's time
            assert await asyncio.gather(*[cache.set("a", number) for number in range(10)]) == [True] * 10
            async with RedisLock("a", ttl=5, client=client) as lock:
                assert lock.acquired
            assert (await cache.get_stats())["errors"] == (how == "silent")
        finally:
            await server.close()
        connections = [connection for pool in pools for connection in pool._available_connections]
        assert connections
        assert not any(connection.is_connected for connection in connections)


async def test_a_cluster_that_is_away_is_a_miss_and_grants_no_lock():
    server = RedisServer(f"redis+cluster://127.0.0.1:{free_port()}")
    try:
        client = server.client()
        policy = CachePolicy(timeout_seconds=5, memory_seconds=60)
        cache = SmartCache("c", policy=policy, client=client)
        assert await cache.get("a", default=MISSING) is MISSING
        assert await cache.set("a", 1) is False
        assert await cache.delete("a") is False
        assert await cache.begin("a") is None
        assert await cache.get_or_load("a", lambda: "loaded") == "loaded"
        with pytest.raises(LockUnavailableError):
            await RedisLock("a", ttl=5, client=client).__aenter__()
        await cache._link().close()
    finally:
        await server.close()
