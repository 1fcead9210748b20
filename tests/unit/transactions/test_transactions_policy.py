"""Retry policies and budgets decide without a server."""

from __future__ import annotations

import pytest

from dotmac.database.transactions import (
    ErrorKind,
    Phase,
    RetryBudget,
    RetryPolicy,
    RetryStrategy,
    TransactionManager,
    Verdict,
    database_error_handler,
)


@pytest.mark.parametrize(
    ("strategy", "delays"),
    [
        (RetryStrategy.FIXED, [1, 1, 1, 1]),
        (RetryStrategy.LINEAR, [1, 2, 3, 4]),
        (RetryStrategy.EXPONENTIAL, [1, 3, 9, 20]),
        ("linear", [1, 2, 3, 4]),
    ],
)
def test_the_pause_grows_as_the_strategy_says(strategy, delays):
    policy = RetryPolicy(base_delay=1, strategy=strategy, multiplier=3, max_delay=20, jitter_ratio=0)
    assert [policy.delay(retry) for retry in (1, 2, 3, 4)] == delays


def test_a_late_retry_does_not_overflow():
    assert RetryPolicy(base_delay=1, multiplier=1000, max_delay=5, jitter_ratio=0).delay(100) == 5


def test_jitter_shortens_the_pause_by_at_most_its_ratio():
    policy = RetryPolicy(base_delay=1, jitter_ratio=0.25)
    delays = [policy.delay(1) for _ in range(500)]
    assert 0.75 <= min(delays) < 0.8
    assert 0.95 < max(delays) <= 1


@pytest.mark.parametrize(
    "values",
    [
        {"max_attempts": 0},
        {"max_attempts": -3},
        {"max_attempts": 101},
        {"max_attempts": 1.5},
        {"max_attempts": True},
        {"base_delay": -1},
        {"base_delay": float("nan")},
        {"base_delay": float("inf")},
        {"base_delay": "1"},
        {"max_delay": -0.1},
        {"multiplier": 0.5},
        {"jitter_ratio": 1.1},
        {"jitter_ratio": -0.1},
        {"deadline_seconds": -1},
        {"lock_timeout_attempts": 0},
        {"strategy": "sometimes"},
    ],
)
def test_absurd_values_are_refused(values):
    with pytest.raises(ValueError, match=r"must be|not a valid"):
        RetryPolicy(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"max_retries": -1},
        {"max_retries": 100},
        {"max_retries": 2.0},
        {"retry_delay": -1.0},
        {"backoff_multiplier": 0.0},
        {"isolation_level": "AUTOCOMMIT"},
    ],
)
def test_a_manager_refuses_absurd_values(values):
    with pytest.raises(ValueError, match=r"must be|AUTOCOMMIT"):
        TransactionManager(**values)


@pytest.mark.parametrize("values", [{"retries": -1}, {"backoff": 0}, {"delay_seconds": -1}, {"retries": 2.5}])
def test_an_error_handler_refuses_absurd_values(values):
    with pytest.raises(ValueError, match="must be"):
        database_error_handler(**values)


@pytest.mark.parametrize(
    ("kind", "attempts"),
    [
        (ErrorKind.CONFLICT, 7),
        (ErrorKind.DISCONNECTED, 7),
        (ErrorKind.UNREACHABLE, 7),
        (ErrorKind.LOCK_TIMEOUT, 2),
        (ErrorKind.STALE_PLAN, 2),
        (ErrorKind.READ_ONLY_NODE, 2),
        (ErrorKind.AMBIGUOUS_COMMIT, 1),
        (ErrorKind.DUPLICATE, 1),
        (ErrorKind.TIMEOUT, 1),
        (ErrorKind.APPLICATION, 1),
    ],
)
def test_each_kind_of_error_is_worth_its_number_of_attempts(kind, attempts):
    assert RetryPolicy(max_attempts=7).attempts_for(Verdict(kind, Phase.STATEMENT)) == attempts


def test_duplicates_are_retried_on_request_only():
    policy = RetryPolicy(max_attempts=4, retry_duplicates=True)
    assert policy.attempts_for(Verdict(ErrorKind.DUPLICATE, Phase.STATEMENT)) == 4


def test_a_budget_runs_dry_and_fills_with_time():
    now = [0.0]
    budget = RetryBudget(2, 0.5, clock=lambda: now[0])
    assert [budget.take(), budget.take(), budget.take()] == [True, True, False]
    now[0] += 2
    assert [budget.take(), budget.take()] == [True, False]
    now[0] += 1000
    assert budget.tokens == 2


@pytest.mark.parametrize("values", [(-1, 1), (1, -1), (float("nan"), 1)])
def test_absurd_budgets_are_refused(values):
    with pytest.raises(ValueError, match="at least 0"):
        RetryBudget(*values)
