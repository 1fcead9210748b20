"""Executors, threads and generators: what they work under is what was carried to them, and nothing else."""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from threading import Thread, Timer

import pytest

from dotmac.database import ContextExecutor, RequestContext, carry, current_context, use_context

ACME = RequestContext(tenant_id="acme")
GLOBEX = RequestContext(tenant_id="globex")


def tenant() -> str | None:
    return current_context().tenant_id


def fail() -> None:
    raise LookupError


async def tenant_later() -> str | None:
    await asyncio.sleep(0)
    return tenant()


def tenants():
    while True:
        sent = yield tenant()
        if sent is not None:
            yield sent


async def tenants_later():
    try:
        while True:
            await asyncio.sleep(0)
            yield tenant()
    finally:
        closed_under.append(tenant())


closed_under: list[str | None] = []


@pytest.fixture(params=[ThreadPoolExecutor, ContextExecutor])
def pool(request):
    with request.param(max_workers=1) as pool:
        yield pool


def test_a_plain_executor_loses_the_tenant_and_a_context_executor_does_not():
    with use_context(ACME), ThreadPoolExecutor() as plain, ContextExecutor() as ours:
        assert plain.submit(tenant).result() is None
        assert ours.submit(tenant).result() == "acme"
        assert list(ours.map(lambda _: tenant(), range(3))) == ["acme"] * 3


def test_a_carried_call_has_its_tenant_and_leaves_none_behind(pool):
    with use_context(ACME):
        assert pool.submit(carry(tenant)).result() == "acme"
    assert pool.submit(tenant).result() is None
    with use_context(GLOBEX):
        failing = carry(fail)
    with pytest.raises(LookupError):
        pool.submit(failing).result()
    assert pool.submit(tenant).result() is None


def test_a_context_executors_thread_starts_every_call_anew():
    with ContextExecutor(max_workers=1) as pool:
        with use_context(ACME):
            assert pool.submit(lambda: use_context(GLOBEX).__enter__().tenant_id).result() == "globex"
            assert pool.submit(tenant).result() == "acme"
        assert pool.submit(tenant).result() is None


async def test_run_in_executor_carries():
    loop = asyncio.get_running_loop()
    with ContextExecutor(max_workers=1) as pool, use_context(ACME):
        assert await loop.run_in_executor(pool, tenant) == "acme"
        assert await loop.run_in_executor(None, carry(tenant)) == "acme"


@pytest.mark.parametrize("start", [lambda work: Thread(target=work), lambda work: Timer(0, work)])
def test_threads_and_timers_carry(start):
    seen = []
    with use_context(ACME):
        thread = start(carry(lambda: seen.append(tenant())))
    thread.start()
    thread.join()
    assert seen == ["acme"]


def test_another_context_than_todays_can_be_carried():
    with use_context(ACME):
        assert carry(tenant, GLOBEX)() == "globex"
        assert carry(tenant, RequestContext())() is None
        assert tenant() == "acme"


def test_no_tenant_is_carried_as_well():
    carried = carry(tenant)
    with use_context(ACME):
        assert carried() is None


def test_carrying_something_else_is_refused():
    with pytest.raises(TypeError, match="RequestContext"):
        carry(tenant, "acme")


def test_a_carried_function_keeps_its_name_and_kind():
    assert carry(tenant).__name__ == "tenant"
    assert inspect.iscoroutinefunction(carry(tenant_later))


async def test_an_async_function_carries():
    with use_context(ACME):
        carried = carry(tenant_later)
    with use_context(GLOBEX):
        assert await carried() == "acme"
        assert tenant() == "globex"


def test_interleaved_generators_work_for_their_own_tenants_and_their_consumer_for_none():
    one, two = carry(tenants, ACME)(), carry(tenants, GLOBEX)()
    seen = []
    for _ in range(2):
        seen += [next(one), tenant(), next(two), tenant()]
    assert seen == ["acme", None, "globex", None] * 2
    assert one.send("sent") == "sent"
    with pytest.raises(LookupError):
        two.throw(LookupError())
    one.close()
    with pytest.raises(StopIteration):
        next(one)
    assert tenant() is None


async def test_interleaved_async_generators_work_for_their_own_tenants():
    one, two = carry(tenants_later, ACME)(), carry(tenants_later, GLOBEX)()
    assert [await anext(one), tenant(), await anext(two), tenant()] == ["acme", None, "globex", None]
    assert await asyncio.create_task(anext(one)) == "acme"
    closed_under.clear()
    await asyncio.create_task(one.aclose())
    with pytest.raises(LookupError):
        await two.athrow(LookupError())
    assert closed_under == ["acme", "globex"]


def test_a_generator_whose_steps_run_in_several_threads_keeps_its_tenant():
    generator = carry(tenants, ACME)()
    with ThreadPoolExecutor(max_workers=1) as one, ThreadPoolExecutor(max_workers=1) as two:
        assert [pool.submit(next, generator).result() for pool in (one, two, one)] == ["acme"] * 3
        assert one.submit(tenant).result() is None
