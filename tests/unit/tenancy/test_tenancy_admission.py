from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dotmac.database.errors import QuotaExceededError
from dotmac.database.tenancy._admission import Admission, Admitted

LONG = timedelta(seconds=60)


async def _in_line(admission, tenant, number):
    """Until ``number`` wait."""
    while len(admission._gates[tenant].line) < number:  # noqa: ASYNC110 - the tasks need only their turn
        await asyncio.sleep(0)


async def test_places_are_given_in_the_order_of_arrival():
    admission = Admission(LONG)
    order = []

    async def work(name):
        async with Admitted(admission, "acme", 1):
            order.append(name)

    await admission.enter("acme", 1)
    tasks = []
    for number in range(5):
        tasks.append(asyncio.create_task(work(number)))
        await _in_line(admission, "acme", number + 1)
    admission.leave("acme")
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert admission._gates == {}


async def test_one_that_is_cancelled_in_line_takes_no_place():
    admission = Admission(LONG)
    await admission.enter("acme", 1)
    waiting = asyncio.create_task(admission.enter("acme", 1))
    await _in_line(admission, "acme", 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    admission.leave("acme")
    assert admission._gates == {}


async def test_one_that_is_cancelled_with_its_place_granted_passes_it_on():
    admission = Admission(LONG)
    await admission.enter("acme", 1)
    first, second = (asyncio.create_task(admission.enter("acme", 1)) for _ in range(2))
    await _in_line(admission, "acme", 2)
    admission.leave("acme")  # granted, but the task has not run since
    first.cancel()
    await second
    assert first.cancelled()
    assert admission.open_sessions("acme") == 1
    admission.leave("acme")
    assert admission._gates == {}


async def test_other_tenants_do_not_wait():
    admission = Admission(timedelta(0))
    await admission.enter("acme", 1)
    await admission.enter("globex", 1)
    with pytest.raises(QuotaExceededError, match="acme"):
        await admission.enter("acme", 1)


def test_a_place_is_not_given_to_a_loop_that_has_ended():
    admission = Admission(LONG)
    admission.enter_blocking("acme", 1)
    loop = asyncio.new_event_loop()

    async def until_in_line():
        waiting = asyncio.ensure_future(admission.enter("acme", 1))
        await _in_line(admission, "acme", 1)
        return waiting

    waiting = loop.run_until_complete(until_in_line())
    loop.close()
    admission.leave("acme")
    assert admission._gates == {}
    waiting._log_destroy_pending = False
    waiting.get_coro().close()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 20), st.integers(0, 2**32))
def test_never_more_than_the_limit_whatever_is_cancelled(limit, workers, seed):
    decide = random.Random(seed)  # noqa: S311 - a schedule, no secret
    most = inside = 0

    async def work(admission):
        nonlocal most, inside
        async with Admitted(admission, "acme", limit):
            inside += 1
            most = max(most, inside)
            try:
                for _ in range(decide.randrange(3)):
                    await asyncio.sleep(0)
            finally:
                inside -= 1

    async def whole():
        admission = Admission(LONG)
        tasks = [asyncio.create_task(work(admission)) for _ in range(workers)]
        for task in tasks:
            await asyncio.sleep(0)
            if decide.random() < 0.3:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return admission._gates

    assert asyncio.run(whole()) == {}
    assert most <= limit
