"""What results say, and what they never say."""

from __future__ import annotations

import json
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL

from dotmac.database import DatabaseHealthChecker, HealthCheckResult, HealthStatus
from dotmac.database.health._custom import _without
from dotmac.database.health._reasons import reason_of
from dotmac.database.health._result import together, worst

# The prefix keeps a generated password from being one of our own words.
PASSWORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20).map("zQ9~{}".format)
H, D, U, N = HealthStatus.HEALTHY, HealthStatus.DEGRADED, HealthStatus.UNHEALTHY, HealthStatus.UNKNOWN


@pytest.mark.parametrize(
    ("statuses", "expected"), [([H, D], D), ([D, N, H], N), ([U, N, D, H], U), ([H, H], H), ([], N)]
)
def test_the_worst_status_wins(statuses, expected):
    assert worst(statuses) is expected


def test_a_status_formats_as_its_word():
    assert f"{HealthStatus.DEGRADED}" == "degraded"
    assert HealthStatus("healthy") is HealthStatus.HEALTHY


def test_only_healthy_and_degraded_serve():
    assert {status for status in HealthStatus if status.is_serving} == {H, D}


def test_one_cause_is_said_once():
    results = [HealthCheckResult(U, "It is down.", name=name) for name in ("connectivity", "query")]
    result = together([*results, HealthCheckResult(N, "Nothing could be measured.", name="performance")], 1.0)
    assert (result.status, result.message) == (U, "It is down.")
    assert [check.name for check in result.checks] == ["connectivity", "query", "performance"]


def test_a_result_is_frozen_and_ready_for_json():
    result = HealthCheckResult(H, details={"when": object, "deep": [{"n": 1}]}, checks=[HealthCheckResult(D)])
    with pytest.raises(AttributeError):
        result.status = U  # type: ignore[misc]
    assert json.loads(json.dumps(result.to_dict()))["checks"][0]["status"] == "degraded"
    assert result.checked_at.tzinfo is not None


@given(PASSWORDS)
def test_a_password_in_a_url_or_a_parameter_never_appears(password):
    url = URL.create("postgresql", "me", password, "db.internal", 5432, "shop")
    rendered = url.render_as_string(hide_password=False)
    result = HealthCheckResult(
        U,
        f"cannot reach {rendered} (password={quote_plus(password)} host=db.internal)",
        details={"dsn": rendered, "password": password, "list": [rendered], "inner": {"url": rendered}},
    )
    said = json.dumps(result.to_dict())
    for secret in (password, quote_plus(password), "db.internal"):
        assert secret not in result.message
        assert json.dumps(secret)[1:-1] not in said


@given(PASSWORDS)
def test_an_added_checks_own_words_lose_the_targets_password_user_and_host(password):
    url = URL.create("postgresql", "shopkeeper", password, "db.internal", 5432, "shop")
    said = _without(
        HealthCheckResult(U, f"{password} of shopkeeper at db.internal", details={"k": f"<{password}>"}), url
    )
    for secret in (password, "shopkeeper", "db.internal"):
        assert secret not in said.message
        assert secret not in str(said.details["k"])


@given(PASSWORDS)
def test_a_drivers_message_is_never_quoted(password):
    assert password not in reason_of(OSError(f"cannot connect as me:{password}@db.internal"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"connection_timeout": 0},
        {"query_timeout": -1},
        {"query_timeout": float("nan")},
        {"total_timeout": float("inf")},
        {"slow_query_threshold": 0},
        {"pool_degraded_at": 0},
        {"pool_unhealthy_at": 1.5},
    ],
)
def test_absurd_limits_are_refused(arguments):
    with pytest.raises(ValueError, match=r"must|above"):
        DatabaseHealthChecker(**arguments)


def test_limits_that_are_no_numbers_are_refused():
    with pytest.raises(TypeError, match="seconds"):
        DatabaseHealthChecker(query_timeout=True)
