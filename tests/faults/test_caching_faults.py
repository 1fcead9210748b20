"""Redis away, silent, killed and back: the cache costs its deadline at most, and nothing old comes back with the server."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from dotmac.database.caching import MISSING, CachePolicy, SmartCache
from dotmac.database.caching._exchange import CacheUnavailableError
from dotmac.database.caching._link import linked
from dotmac.database.embedded import EmbeddedValkey

_CHUNK_BYTES = 65_536


class Proxy:
    """Forwards TCP connections, in the test's own event loop, and fails as told."""

    def __init__(self, target_port):
        self.target_port = target_port
        self.port = 0
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False
        self._writers = set()
        self._tasks = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_error):
        self._server.close()
        self.cut_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def black_hole(self):
        self._flows.clear()

    def refuse(self):
        self._refuses = True

    def cut_all(self):
        for writer in self._writers:
            writer.transport.abort()

    def heal(self):
        self._refuses = False
        self._flows.set()

    async def _accept(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        self._writers.add(writer)
        if self._refuses:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        self._writers.add(far_writer)
        try:
            await asyncio.gather(self._forward(reader, far_writer), self._forward(far_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            far_writer.transport.abort()

    async def _forward(self, reader, writer):
        while part := await reader.read(_CHUNK_BYTES):
            await self._flows.wait()
            writer.write(part)
            await writer.drain()
        writer.transport.abort()


@pytest.fixture(scope="module")
def server():
    with EmbeddedValkey(tcp=True) as server:
        yield server


@pytest.fixture
async def proxy(server):
    async with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
async def client(server, proxy):
    password = server.address.password
    async with Redis(
        host="127.0.0.1", port=proxy.port, password=password, retry=Retry(NoBackoff(), 1)
    ) as client:
        yield client


@pytest.fixture
def make_cache(client):
    prefix = f"faults-{uuid.uuid4().hex}"

    def make(timeout_seconds=0.1, **policy):
        return SmartCache(
            "users", 60, CachePolicy(timeout_seconds=timeout_seconds, **policy), client=client, prefix=prefix
        )

    return make


@pytest.fixture
async def elsewhere(server, make_cache):
    """The same cache as another process has it, which no fault reaches."""
    async with Redis(host="127.0.0.1", port=server.port, password=server.address.password) as direct:
        prefix = make_cache().made_with["prefix"]
        policy = CachePolicy(timeout_seconds=10, memory_seconds=60)
        yield SmartCache("users", 60, policy, client=direct, prefix=prefix)
        await linked(direct).close()


async def owes(cache, proxy):
    """Have the process owe the removal of "a"; then Redis is back, and was told nothing yet."""
    proxy.black_hole()
    assert await cache.delete("a") is False
    proxy.cut_all()
    proxy.heal()
    link = cache._link()
    link.exchange._send.breaker.reset()
    assert link.debts
    return link


async def settled(cache):
    """Wait until what is owed has been removed."""
    link = cache._link()
    link.exchange._send.breaker.reset()
    async with asyncio.timeout(20):
        while link.debts:
            try:
                await link.settle(2)
            except CacheUnavailableError:
                await asyncio.sleep(0.05)
                link.exchange._send.breaker.reset()


async def test_a_silent_redis_costs_its_deadline_and_then_nothing(make_cache, proxy):
    patient, cache = make_cache(10), make_cache(0.1)
    await patient.set("a", 1)
    proxy.black_hole()
    began = time.monotonic()
    for _ in range(100):
        assert await cache.get("a", default=MISSING) is MISSING
    assert await cache.get_or_load("a", lambda: "loaded") == "loaded"
    assert await cache.get_many(["a", "b"]) == {}
    assert time.monotonic() - began < 100 * 0.1 / 2  # the breaker, not each deadline
    stats = await cache.get_stats()
    assert stats["errors"] >= 100
    assert (stats["hits"], stats["loads"]) == (0, 1)
    proxy.heal()
    await settled(cache)
    assert await patient.get("a") == 1


@pytest.mark.parametrize(
    "change", ["set", "delete", "invalidate_namespace", "invalidate_pattern", "invalidate_tags"]
)
async def test_what_could_not_be_changed_does_not_come_back_with_redis(make_cache, proxy, change):
    patient, cache = make_cache(10), make_cache(0.1)
    await patient.set("user", 1, "old", tags=["red"])
    proxy.black_hole()
    arguments = {"set": ("user", 1, "new"), "delete": ("user", 1), "invalidate_pattern": ("user:*",)}
    await getattr(cache, change)(*arguments.get(change, ("red",) if change == "invalidate_tags" else ()))
    assert (await cache.get_stats())["errors"] == 1
    proxy.cut_all()
    proxy.heal()
    await settled(cache)
    assert await patient.get("user", 1, default=MISSING) is MISSING


ASKS = {
    "get": lambda cache: cache.get("a"),
    "get_many": lambda cache: cache.get_many(["a"]),
    "get_or_load": lambda cache: cache.get_or_load("a", lambda: "new"),
    "set": lambda cache: cache.set("b", 1),
    "set_many": lambda cache: cache.set_many({"b": 1}),
    "delete": lambda cache: cache.delete("b"),
    "begin": lambda cache: cache.begin("b"),
    "invalidate_tags": lambda cache: cache.invalidate_tags("red"),
}


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
async def test_whoever_asks_first_when_redis_is_back_pays_what_is_owed(make_cache, proxy, ask):
    patient, cache = make_cache(10), make_cache(0.1)
    await patient.set("a", "old")
    link = await owes(cache, proxy)
    assert await ask(patient) not in ("old", {"a": "old"})
    assert not link.debts


async def test_what_is_owed_is_paid_though_nobody_asks(make_cache, proxy, elsewhere):
    await elsewhere.set("a", "old")
    await owes(make_cache(0.1), proxy)
    async with asyncio.timeout(20):
        while await elsewhere.get("a", default=MISSING) is not MISSING:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)


async def test_what_is_paid_is_forgotten_elsewhere_and_its_loads_are_refused(make_cache, proxy, elsewhere):
    cache = make_cache(0.1)
    await elsewhere.get("warm-up")
    await elsewhere._link().copies(elsewhere._spaces[None].scope).serves()
    token = await elsewhere.begin("a")
    await make_cache(10).set_many({"b": "kept"})
    assert await elsewhere.fill(token, "old") is True
    assert [await elsewhere.get("a"), await elsewhere.get("a")] == ["old", "old"]
    assert (await elsewhere.get_stats())["memory_hits"] == 1
    token = await elsewhere.begin("a")
    await owes(cache, proxy)
    await settled(cache)
    assert await elsewhere.get("a", default=MISSING) is MISSING
    assert await elsewhere.fill(token, "old") is False


async def test_a_copy_is_not_served_after_a_change_that_redis_was_not_told(make_cache, proxy):
    cache = make_cache(0.3, memory_seconds=60)
    await make_cache(10).set("a", "old")
    await cache.get("warm-up")
    await cache._link().copies(cache._spaces[None].scope).serves()
    assert [await cache.get("a"), await cache.get("a")] == ["old", "old"]
    assert (await cache.get_stats())["memory_hits"] == 1
    proxy.black_hole()
    assert await cache.set("a", "new") is False
    assert await cache.get("a", default=MISSING) is MISSING
    proxy.heal()


async def test_what_is_owed_to_a_silent_redis_costs_no_caller_more_than_the_deadline(make_cache, proxy):
    patient, cache = make_cache(10), make_cache(0.1)
    await patient.set_many({"a": "old", "b": "kept"})
    proxy.black_hole()
    assert await cache.set("a", "new") is False
    async with asyncio.timeout(1.9):  # less than what is spent on it behind the callers
        for _ in range(3):
            assert await asyncio.gather(*[cache.get("b") for _ in range(20)]) == [None] * 20
    assert await cache.delete("b") is False
    proxy.heal()
    await settled(cache)
    assert await patient.get_many(["a", "b"]) == {}


async def test_callers_at_once_share_one_removal_of_what_is_owed(make_cache, proxy, monkeypatch):
    patient, cache = make_cache(10), make_cache(0.1)
    await patient.set_many({"a": "old", "b": "kept"})
    link = await owes(cache, proxy)
    removals = []
    remove = link._remove_all_owed

    async def counted(timeout_seconds):
        removals.append(timeout_seconds)
        await remove(timeout_seconds)

    monkeypatch.setattr(link, "_remove_all_owed", counted)
    assert await asyncio.gather(*[patient.get_many(["a", "b"]) for _ in range(20)]) == [{"b": "kept"}] * 20
    assert len(removals) == 1
    assert (await patient.get_stats())["errors"] == 0


async def test_more_than_can_be_remembered_makes_the_whole_space_invalid(make_cache, proxy):
    patient, cache = make_cache(10), make_cache(0.1)
    await patient.set_many({"kept": 1, "k:5": 5})
    proxy.black_hole()
    await cache.delete_many([f"k:{number}" for number in range(1500)])
    proxy.heal()
    await settled(cache)
    assert await patient.get_many(["kept", "k:5"]) == {}


async def test_a_refused_connection_is_a_miss(make_cache, proxy):
    cache = make_cache(0.5)
    proxy.refuse()
    assert await cache.get("a") is None
    assert await cache.set("a", 1) is False
    assert await cache.delete("a") is False
    assert await cache.begin("a") is None
    assert await cache.get_or_load("a", lambda: 1) == 1
    proxy.heal()
    await settled(cache)
    assert await make_cache(10).set("a", 2) is True


async def test_callers_without_redis_do_not_share_what_they_can_change(make_cache, proxy):
    cache = make_cache(0.5)
    proxy.refuse()
    given = await asyncio.gather(*[cache.get_or_load("a", lambda: {"roles": []}) for _ in range(5)])
    assert (await cache.get_stats())["loads"] == 1
    given[0]["roles"].append("admin")
    given[1]["roles"].append("owner")
    assert given[2:] == [{"roles": []}] * 3


async def test_a_stale_copy_is_given_when_redis_and_the_loader_fail(make_cache, proxy):
    cache = make_cache(1, memory_seconds=0.05, stale_seconds=60)
    await make_cache(10).set("a", "old")
    await cache.get("warm-up")
    await cache._link().copies(cache._spaces[None].scope).serves()
    assert await cache.get("a") == "old"
    lost = cache._link().copies(cache._spaces[None].scope)._lost
    proxy.refuse()
    proxy.cut_all()
    await asyncio.wait_for(lost.wait(), 10)

    def fail():
        raise RuntimeError("the database is away too")

    assert await cache.get_or_load("a", fail) == "old"
    assert (await cache.get_stats())["stale"] == 1
    with pytest.raises(RuntimeError, match="away too"):
        await cache.get_or_load("b", fail)


async def test_a_lost_subscription_forgets_every_copy(make_cache, proxy):
    cache, writer = make_cache(10, memory_seconds=60), make_cache(10)
    await writer.set("a", "old")
    copies = cache._link().copies(cache._spaces[None].scope)
    await cache.get("warm-up")
    await copies.serves()
    assert [await cache.get("a"), await cache.get("a")] == ["old", "old"]
    assert (await cache.get_stats())["memory_hits"] == 1
    lost = copies._lost
    proxy.cut_all()
    await asyncio.wait_for(lost.wait(), 10)
    await writer.set("a", "new")
    await asyncio.wait_for(copies.serves(), 20)
    assert [await cache.get("a"), await cache.get("a")] == ["new", "new"]


async def test_a_silent_subscription_ends_the_lease(make_cache, proxy):
    cache = make_cache(10, memory_seconds=60)
    await make_cache(10).set("a", 1)
    copies = cache._link().copies(cache._spaces[None].scope)
    await cache.get("warm-up")
    await copies.serves()
    lost = copies._lost
    proxy.black_hole()
    await asyncio.wait_for(lost.wait(), 20)
    assert copies.served_until == 0
    proxy.heal()


async def test_a_killed_server_is_used_again_when_it_is_back(tmp_path):
    with EmbeddedValkey(tmp_path / "valkey", tcp=True) as server:
        port, url = server.port, server.tcp_url
        policy = CachePolicy(timeout_seconds=5, memory_seconds=60)
        async with Redis.from_url(url) as client:
            cache = SmartCache("killed", policy=policy, client=client)
            await cache.set("a", 1)
            assert await cache.get("a") == 1
            os.kill(await server_pid(client), signal.SIGKILL)
            server.stop()
            assert await cache.get("a") is None
            assert await cache.get_or_load("a", lambda: "loaded") == "loaded"
            with EmbeddedValkey(tmp_path / "valkey", port=port):
                await settled(cache)
                assert await cache.set("a", 2) is True
                assert await cache.get("a") == 2
                assert await cache.get_or_load("b", lambda: 3) == 3
                assert await cache.get("b") == 3


async def server_pid(client):
    return int((await client.info("server"))["process_id"])
