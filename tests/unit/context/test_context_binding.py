"""A block binds a context: for itself, for what it starts, and for nobody else."""

from __future__ import annotations

import asyncio
import dataclasses
import pickle
from contextvars import Context, copy_context
from threading import Thread

import pytest

from dotmac.database import RequestContext, current_context, use_context

ACME = RequestContext(tenant_id="acme", user_id="ann", request_id="r-1", client_ip="10.0.0.1")
GLOBEX = RequestContext(tenant_id="globex")


def tenant() -> str | None:
    return current_context().tenant_id


def bound(context: RequestContext):
    """A generator that binds around its yields, as nobody should."""
    with use_context(context):
        while True:
            yield tenant()


async def bound_asynchronously(context: RequestContext):
    with use_context(context):
        yield tenant()
        yield tenant()


def test_nothing_is_bound_at_first():
    assert current_context() == RequestContext()


def test_a_context_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ACME.tenant_id = "globex"


def test_a_context_survives_pickling():
    assert pickle.loads(pickle.dumps(ACME)) == ACME  # noqa: S301 - made here


def test_only_unscoped_makes_an_unscoped_context():
    with pytest.raises(TypeError, match="unscoped_reason"):
        RequestContext(unscoped_reason="because")
    with pytest.raises(ValueError, match="unscoped_reason"):
        dataclasses.replace(ACME, unscoped_reason="because")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, asyncio.CancelledError])
def test_nested_contexts_are_restored_after_errors(error):
    def fail_as(context: RequestContext) -> None:
        with use_context(context):
            assert tenant() == "globex"
            raise error

    with use_context(ACME):
        with pytest.raises(error):
            fail_as(GLOBEX)
        assert tenant() == "acme"
    assert tenant() is None


def test_a_block_is_entered_once():
    block = use_context(ACME)
    with block, pytest.raises(RuntimeError, match="entered before"), block:
        pass
    assert tenant() is None


def test_a_block_is_no_decorator():
    # It would bind while an async function makes its coroutine, and not while the coroutine runs.
    with pytest.raises(TypeError):
        use_context(ACME)(tenant)


@pytest.mark.parametrize("wrong", ["acme", None, {"tenant_id": "acme"}])
def test_something_else_than_a_context_is_refused(wrong):
    with pytest.raises(TypeError, match="RequestContext"):
        use_context(wrong)


async def test_tasks_keep_the_context_they_were_started_in():
    gate = asyncio.Event()

    async def work() -> list[str | None]:
        before = tenant()
        await gate.wait()
        with use_context(RequestContext(tenant_id="inner")):
            inner = tenant()
        return [before, inner, tenant(), tenant()]

    with use_context(GLOBEX):
        with use_context(ACME):
            task = asyncio.create_task(work())
        assert tenant() == "globex"
        gate.set()
        assert await task == ["acme", "inner", "acme", "acme"]
        assert tenant() == "globex"


async def test_a_thread_of_to_thread_sees_the_context_and_cannot_change_it():
    def work() -> str | None:
        use_context(GLOBEX).__enter__()
        return tenant()

    with use_context(ACME):
        assert await asyncio.to_thread(work) == "globex"
        assert tenant() == "acme"


def test_a_raw_thread_starts_without_a_context():
    seen = []
    with use_context(ACME):
        thread = Thread(target=lambda: Context().run(lambda: seen.append(tenant())))
        thread.start()
        thread.join()
    assert seen == [None]


def test_callbacks_in_a_copied_context_keep_it_after_the_block():
    with use_context(GLOBEX):
        with use_context(ACME):
            copied = copy_context()
        assert copied.run(lambda: [tenant(), tenant()]) == ["acme", "acme"]
        assert tenant() == "globex"


async def test_concurrent_tasks_do_not_see_each_other():
    async def work(number: int) -> bool:
        with use_context(RequestContext(tenant_id=f"t{number}")):
            for _ in range(3):
                await asyncio.sleep(0)
                if tenant() != f"t{number}":
                    return False
        return tenant() is None

    assert all(await asyncio.gather(*(work(number) for number in range(100))))


def test_an_abandoned_generator_leaves_nothing_bound():
    generator = bound(ACME)
    next(generator)
    generator.close()
    assert tenant() is None


def test_a_generator_closed_in_another_context_leaves_nothing_bound():
    with use_context(GLOBEX):
        generator = bound(ACME)
        next(generator)
        copy_context().run(generator.close)
        assert tenant() == "globex"
    assert tenant() is None


async def test_an_async_generator_finished_by_another_task_leaves_nothing_bound():
    stream = bound_asynchronously(ACME)
    assert await anext(stream) == "acme"
    await asyncio.create_task(stream.aclose())
    assert tenant() is None


async def test_a_block_that_ends_well_in_another_task_is_an_error():
    stream = bound_asynchronously(ACME)
    await anext(stream)

    async def to_the_end() -> list[str | None]:
        return [tenant async for tenant in stream]

    with pytest.raises(RuntimeError, match="carry"):
        await asyncio.create_task(to_the_end())
    assert tenant() is None


def test_blocks_left_out_of_order_are_an_error_and_leave_nothing_bound():
    outer, inner = use_context(ACME), use_context(GLOBEX)
    outer.__enter__()
    inner.__enter__()
    with pytest.raises(RuntimeError, match="another tenant"):
        outer.__exit__(None, None, None)
    assert tenant() == "globex"
    inner.__exit__(None, None, None)
    assert tenant() is None


def test_blocks_of_one_tenant_may_be_left_in_any_order():
    outer, inner = use_context(ACME), use_context(RequestContext(tenant_id="acme"))
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert tenant() == "acme"
    inner.__exit__(None, None, None)
    assert tenant() is None
