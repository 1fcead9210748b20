from __future__ import annotations

import asyncio
import contextlib
import uuid

import pytest
from redis.asyncio import Redis
from sqlalchemy import make_url

from dotmac.database.caching import _client
from dotmac.database.context import RequestContext, unscoped, use_context
from dotmac.database.coordination import RedisLock
from dotmac.database.coordination import _redis_line as line
from dotmac.database.coordination._redis_scripts import ABANDON, ACQUIRE, RELEASE, Keys
from dotmac.database.errors import LockError, LockLostError, LockNotHeldError, LockUnavailableError
from dotmac.database.testing._proxy import FaultProxy


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
async def client(request, redis_url):
    client = Redis.from_url(redis_url, protocol=request.param)
    yield client
    await client.aclose()
    assert not line._listeners


@pytest.fixture
def name():
    return f"locks:{uuid.uuid4().hex}"


def key_of(name):
    return Keys.of("", name).lock


async def test_one_gets_it_and_the_other_is_told(client, name):
    async with RedisLock(name, ttl=60, client=client) as first:
        assert first.acquired
        assert first.held
        async with RedisLock(name, ttl=60, client=client) as second:
            assert not second.acquired
            with pytest.raises(LockNotHeldError):
                _ = second.fencing_token
        assert await client.exists(key_of(name))
    assert not first.held
    assert not await client.exists(key_of(name))


async def test_fencing_tokens_grow_even_when_the_clock_went_back(client, name):
    tokens = []
    for _ in range(3):
        async with RedisLock(name, ttl=60, client=client) as lock:
            tokens.append(lock.fencing_token)
    ahead = tokens[-1] + 10**12
    await client.set(Keys.of("", name).fence, ahead)
    async with RedisLock(name, ttl=60, client=client) as lock:
        tokens.append(lock.fencing_token)
    assert tokens == sorted(set(tokens))
    assert tokens[-1] == ahead + 1


async def test_a_lock_and_its_fence_both_expire(client, name):
    async with RedisLock(name, ttl=60, client=client):
        assert 0 < await client.pttl(key_of(name)) <= 60_000
    assert await client.pttl(Keys.of("", name).fence) > 0


async def test_a_lock_outlives_its_ttl_while_the_block_runs(client, name):
    async with RedisLock(name, ttl=0.2, client=client) as lock:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(lock.lost.wait(), 0.7)
        assert lock.held
        assert await client.exists(key_of(name))


async def test_a_lock_that_is_not_renewed_is_lost_after_its_ttl(client, name):
    with pytest.raises(LockLostError, match="went by"):  # noqa: PT012
        async with RedisLock(name, ttl=0.1, renew=False, client=client) as lock:
            await lock.lost.wait()
            assert not lock.held


async def test_the_loss_of_a_lock_is_noticed_and_raised(client, name):
    with pytest.raises(LockLostError, match="somebody else"):  # noqa: PT012
        async with RedisLock(name, ttl=0.3, client=client) as lock:
            await client.set(key_of(name), "somebody", px=60_000)
            await lock.lost.wait()
    assert await client.get(key_of(name)) == b"somebody"


async def test_a_loss_is_noticed_at_release_at_the_latest(client, name):
    with pytest.raises(LockLostError):  # noqa: PT012
        async with RedisLock(name, ttl=60, client=client):
            await client.delete(key_of(name))
            async with RedisLock(name, ttl=60, client=client) as other:
                assert other.acquired


async def test_a_lock_that_expired_but_that_nobody_had_since_was_not_lost(client, name):
    async with RedisLock(name, ttl=60, client=client):
        await client.delete(key_of(name))


async def test_a_loss_cancels_the_block_if_wanted(client, name):
    with pytest.raises(LockLostError):  # noqa: PT012
        async with RedisLock(name, ttl=0.2, cancel_when_lost=True, client=client):
            await client.set(key_of(name), "somebody", px=60_000)
            await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancellation_from_outside_stays_one(client, name):
    entered = asyncio.Event()

    async def work():
        async with RedisLock(name, ttl=60, cancel_when_lost=True, client=client):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not await client.exists(key_of(name))


async def test_an_error_of_the_block_is_raised_as_it_is(client, name):
    with pytest.raises(ZeroDivisionError):
        async with RedisLock(name, ttl=60, client=client):
            _ = 1 / 0
    assert not await client.exists(key_of(name))


async def test_an_object_guards_one_block_at_a_time(client, name):
    lock = RedisLock(name, ttl=60, client=client)
    async with lock:
        with pytest.raises(LockError, match="in use"):
            async with lock:
                pass
        assert await client.exists(key_of(name))
    async with lock:
        assert lock.acquired


async def test_those_of_one_process_come_in_order(client, name):
    order = []

    async def wait_for_it(number):
        async with RedisLock(name, ttl=60, wait=30, client=client) as lock:
            assert lock.acquired
            order.append(number)

    async with RedisLock(name, ttl=60, client=client):
        tasks = []
        for number in range(8):
            tasks.append(asyncio.create_task(wait_for_it(number)))
            await _stand(name, number + 1)
    await asyncio.gather(*tasks)
    assert order == list(range(8))


async def _stand(name, count):
    """Until ``count`` of this process stand in line."""
    channel = Keys.of("", name).freed
    while count > sum(  # noqa: ASYNC110 - nothing tells
        item.lines[channel].length for item in line._listeners.values() if channel in item.lines
    ):
        await asyncio.sleep(0.001)


async def test_a_wait_ends_when_its_time_is_up(client, name):
    async with (
        RedisLock(name, ttl=60, client=client),
        RedisLock(name, ttl=60, wait=0.1, client=client) as second,
    ):
        assert not second.acquired


async def test_a_lock_whose_holder_died_is_taken_when_it_expires(client, name):
    await client.set(key_of(name), "dead", px=150)
    async with RedisLock(name, ttl=60, wait=30, client=client) as lock:
        assert lock.acquired


async def test_waiters_survive_a_lost_connection(client, name):
    async with RedisLock(name, ttl=60, client=client):

        async def wait_for_it():
            async with RedisLock(name, ttl=60, wait=30, client=client) as lock:
                return lock.acquired

        task = asyncio.create_task(wait_for_it())
        await _stand(name, 1)
        for _ in range(3):
            await client.client_kill_filter(_type="pubsub")
            await asyncio.sleep(0.02)
    assert await task


async def test_cancelled_acquisitions_leave_no_orphan(client, name):
    for number in range(20):
        task = asyncio.create_task(_take(f"{name}:{number}", client))
        for _ in range(number):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert not [key async for key in client.scan_iter(f"dotmac:lock:*{name}*") if key.endswith(b"}")]


async def test_cancelled_waiters_leave_no_orphan(client, name):
    for number in range(20):
        async with RedisLock(name, ttl=60, client=client):
            task = asyncio.create_task(_take(name, client, wait=30))
            await _stand(name, 1)
        for _ in range(number):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert not await client.exists(key_of(name))


async def _take(name, client, wait=0):
    async with RedisLock(name, ttl=60, wait=wait, client=client):
        pass


async def test_an_acquisition_that_arrives_after_it_was_abandoned_is_of_no_effect(client, name):
    keys = Keys.of("", name)
    three = (keys.lock, keys.fence, keys.void("t"))
    assert await ABANDON.run(client, three, "t", 60_000, keys.freed) == 0
    assert await ACQUIRE.run(client, three, "t", 60_000, 60_000) <= 0
    assert not await client.exists(keys.lock)


async def test_messages_sent_twice_do_no_harm(client, name):
    keys = Keys.of("", name)
    three = (keys.lock, keys.fence, keys.void("t"))
    fence = await ACQUIRE.run(client, three, "t", 60_000, 60_000)
    assert await ACQUIRE.run(client, three, "t", 60_000, 60_000) == fence
    assert await RELEASE.run(client, three[:2], "t", fence, keys.freed) == 1
    assert await RELEASE.run(client, three[:2], "t", fence, keys.freed) == 1


async def test_scripts_the_server_forgot_are_sent_again(client, name):
    async with RedisLock(name, ttl=60, client=client):
        await client.script_flush()
    assert not await client.exists(key_of(name))


@pytest.mark.parametrize(
    "options",
    [{"single_connection_client": True}, {"decode_responses": True}, {"health_check_interval": 0.001}],
    ids=lambda options: next(iter(options)),
)
async def test_every_kind_of_client_locks(redis_url, name, options):
    async with Redis.from_url(redis_url, **options) as client:
        for _ in range(2):
            async with RedisLock(name, ttl=60, client=client) as lock:
                assert lock.acquired
                assert await client.exists(key_of(name))
        assert not await client.exists(key_of(name))


async def test_a_lock_is_given_back_when_all_connections_were_closed(client, name):
    async with RedisLock(name, ttl=60, client=client):
        await client.connection_pool.disconnect()
    assert not await client.exists(key_of(name))


async def test_foreign_bytes_under_the_key_fail_closed(client, name):
    await client.hset(key_of(name), "not", "a lock")
    with pytest.raises(LockUnavailableError):
        await _take(name, client)
    await client.delete(key_of(name))


async def test_tenants_do_not_meet_unless_the_lock_is_shared(client, name):
    with use_context(RequestContext(tenant_id="acme")):
        async with (
            RedisLock(name, ttl=60, client=client),
            RedisLock(name, ttl=60, client=client, shared=True),
        ):
            with use_context(RequestContext(tenant_id="other")):
                async with (
                    RedisLock(name, ttl=60, client=client) as theirs,
                    RedisLock(name, ttl=60, client=client, shared=True) as shared,
                ):
                    assert theirs.acquired
                    assert not shared.acquired
            with unscoped("looks from outside"):
                async with RedisLock(name, ttl=60, client=client) as outside:
                    assert not outside.acquired


async def test_a_server_that_refuses_connections_is_no_lock():
    client = Redis(host="127.0.0.1", port=1)
    with pytest.raises(LockUnavailableError, match="nobody knows"):
        async with RedisLock("a", ttl=1, client=client):
            pytest.fail("nothing was acquired")
    await client.aclose()


async def test_a_silent_server_is_no_lock_and_leaves_none(redis_url, name):
    target = make_url(redis_url)
    with FaultProxy(target.host, target.port) as proxy:
        # RESP2 begins with a command as its first message, as the proxy expects of no other client.
        proxy.black_hole()
        client = Redis(host="127.0.0.1", port=proxy.port)
        with pytest.raises(LockUnavailableError):
            await _take_briefly(name, client)
        await client.aclose()


async def _take_briefly(name, client):
    async with RedisLock(name, ttl=0.3, client=client):
        pytest.fail("nothing was acquired")


def test_a_second_event_loop_uses_the_default_client(monkeypatch, redis_url, name):

    monkeypatch.setenv("REDIS_URL", redis_url)
    _client._process_wide.cache_clear()

    async def work():
        async with RedisLock(name, ttl=60) as lock:
            return lock.acquired

    try:
        assert asyncio.run(work())
        assert asyncio.run(work())
    finally:
        _client._process_wide.cache_clear()
