"""The circuit breaker, with a clock that tests move."""

from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy.exc import OperationalError

from dotmac.database.errors import CircuitOpenError
from dotmac.database.transactions import CircuitBreaker, CircuitBreakers, CircuitState


class Clock:
    """Seconds that pass only when told."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def lost():
    raise ConnectionResetError


def wrong():
    raise ValueError("wrong data")


def fine():
    return "fine"


def opened(clock, **options):
    breaker = CircuitBreaker(failure_threshold=3, recovery_timeout=10, clock=clock, **options)
    fail(breaker, 3)
    return breaker


def fail(breaker, times):
    for _ in range(times):
        with pytest.raises(ConnectionResetError):
            breaker(lost)()


def test_it_is_closed_at_first_and_equals_plain_strings():
    breaker = CircuitBreaker()
    assert breaker.state == "closed"
    assert breaker.state is CircuitState.CLOSED
    assert breaker(fine)() == "fine"


def test_it_opens_at_the_threshold_and_refuses_with_the_time_left(clock):
    breaker = opened(clock, name="db1")
    assert breaker.state == "open"
    clock.now += 4
    called = []
    with pytest.raises(CircuitOpenError, match="db1") as raised:
        breaker(lambda: called.append(1))()
    assert raised.value.retry_after == pytest.approx(6)
    assert raised.value.name == "db1"
    assert called == []


def test_application_errors_never_open_it(clock):
    breaker = CircuitBreaker(failure_threshold=2, clock=clock)
    for _ in range(50):
        with pytest.raises(ValueError, match="wrong"):
            breaker(wrong)()
    assert breaker.state == "closed"


def test_constraint_violations_never_open_it(clock):
    class UniqueViolation(Exception):  # noqa: N818 - as drivers name it
        sqlstate = "23505"

    def duplicate():
        raise OperationalError("INSERT", None, UniqueViolation())

    breaker = CircuitBreaker(failure_threshold=1, clock=clock)
    with pytest.raises(OperationalError):
        breaker(duplicate)()
    assert breaker.state == "closed"


async def test_cancellations_never_open_it(clock):
    breaker = CircuitBreaker(failure_threshold=1, clock=clock)

    @breaker
    async def forever():
        await asyncio.Event().wait()

    for _ in range(3):
        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert breaker.state == "closed"


def test_successes_push_failures_out_of_the_window(clock):
    breaker = CircuitBreaker(failure_threshold=3, window_calls=6, clock=clock)
    for _ in range(20):
        fail(breaker, 2)
        for _ in range(5):
            breaker(fine)()
    assert breaker.state == "closed"


def test_failures_grow_old(clock):
    breaker = CircuitBreaker(failure_threshold=3, window_seconds=60, clock=clock)
    for _ in range(10):
        fail(breaker, 1)
        clock.now += 31
    assert breaker.state == "closed"


def test_it_does_not_open_before_the_minimum_of_calls(clock):
    breaker = CircuitBreaker(failure_threshold=2, minimum_calls=5, window_calls=10, clock=clock)
    fail(breaker, 4)
    assert breaker.state == "closed"
    fail(breaker, 1)
    assert breaker.state == "open"


def test_one_call_may_try_after_the_recovery_time_and_success_closes(clock):
    breaker = opened(clock)
    clock.now += 10
    assert breaker.state == "half_open"
    refused = []

    def trying():
        with pytest.raises(CircuitOpenError):
            breaker(fine)()
        refused.append(1)

    breaker(trying)()
    assert refused == [1]
    assert breaker.state == "closed"
    fail(breaker, 2)
    assert breaker.state == "closed"  # the old failures are forgotten


def test_a_failed_try_opens_it_again_for_the_whole_time(clock):
    breaker = opened(clock)
    clock.now += 10
    fail(breaker, 1)
    assert breaker.state == "open"
    clock.now += 9
    with pytest.raises(CircuitOpenError):
        breaker(fine)()


@pytest.mark.parametrize("error", [ValueError("wrong data"), KeyboardInterrupt(), asyncio.CancelledError()])
def test_a_try_that_says_nothing_passes_the_permit_on(clock, error):
    breaker = opened(clock)
    clock.now += 10

    def neutral():
        raise error

    with pytest.raises(type(error)):
        breaker(neutral)()
    assert breaker.state == "half_open"
    assert breaker(fine)() == "fine"
    assert breaker.state == "closed"


def test_a_call_from_before_it_opened_does_not_close_it(clock):
    breaker = CircuitBreaker(failure_threshold=1, recovery_timeout=10, clock=clock)

    def slow():
        fail(breaker, 1)

    breaker(slow)()
    assert breaker.state == "open"


def test_it_is_a_context_manager(clock):
    breaker = CircuitBreaker(failure_threshold=1, recovery_timeout=10, clock=clock)
    with pytest.raises(ConnectionResetError), breaker:
        lost()
    with pytest.raises(CircuitOpenError), breaker:
        pytest.fail("the block must not run")
    clock.now += 10
    with breaker, pytest.raises(CircuitOpenError), breaker:
        pytest.fail("only one may try")
    assert breaker.state == "closed"


async def test_it_is_an_async_context_manager_and_guards_coroutine_functions(clock):
    breaker = CircuitBreaker(failure_threshold=2, recovery_timeout=10, clock=clock)

    @breaker
    async def broken():
        lost()

    with pytest.raises(ConnectionResetError):
        async with breaker:
            lost()
    with pytest.raises(ConnectionResetError):
        await broken()
    with pytest.raises(CircuitOpenError):
        await broken()
    assert broken.breaker is breaker
    breaker.reset()
    assert breaker.state == "closed"


def test_threads_share_one_permit(clock):
    breaker = opened(clock)
    clock.now += 10
    inside, may_end, outcomes = threading.Event(), threading.Event(), []

    def slow():
        inside.set()
        may_end.wait(10)

    trying = threading.Thread(target=breaker(slow))
    trying.start()
    inside.wait(10)

    def refused():
        try:
            breaker(fine)()
        except CircuitOpenError:
            outcomes.append("refused")

    others = [threading.Thread(target=refused) for _ in range(8)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    may_end.set()
    trying.join()
    assert outcomes == ["refused"] * 8
    assert breaker.state == "closed"


@pytest.mark.parametrize(
    "options",
    [
        {"failure_threshold": 0},
        {"failure_threshold": -1},
        {"failure_threshold": 2.5},
        {"failure_threshold": True},
        {"recovery_timeout": 0},
        {"recovery_timeout": float("nan")},
        {"recovery_timeout": float("inf")},
        {"window_seconds": -1},
        {"failure_threshold": 5, "window_calls": 4},
        {"minimum_calls": 11},
    ],
)
def test_absurd_values_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        CircuitBreaker(**options)
    with pytest.raises(ValueError, match="must be"):
        CircuitBreakers(**options)


def test_generators_are_refused():
    def rows():
        yield 1

    with pytest.raises(TypeError, match="generator"):
        CircuitBreaker()(rows)


def test_each_node_has_a_breaker_of_its_own(clock):
    breakers = CircuitBreakers(1, 10, clock=clock)
    fail(breakers["db1"], 1)
    assert breakers["db2"](fine)() == "fine"
    assert breakers["db1"] is breakers["db1"]
    assert breakers.states() == {"db1": "open", "db2": "closed"}
