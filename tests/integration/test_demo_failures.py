"""A demonstration in which something does not hold says so and fails."""

from __future__ import annotations

import httpx
import pytest

from dotmac.database.cli._demo_checks import ApiChecks
from dotmac.database.cli._demo_report import CheckFailedError, Report, require
from dotmac.database.cli.demo import _conclude


def test_a_failed_check_names_what_was_wanted_and_what_was_seen():
    with pytest.raises(CheckFailedError, match="rows: expected 3, saw 2"):
        require(3, 2, "rows")


def test_a_report_with_a_failure_is_no_success(capsys):
    shown = []
    report = Report(shown.append)
    assert report.run("First", lambda: "fine")
    assert not report.run("Second", lambda: require(1, 2, "rows") or "")
    assert [step.failure for step in shown] == [None, "rows: expected 1, saw 2"]
    assert report.as_dict()["ok"] is False
    _conclude(report, None, as_json=False)
    said = capsys.readouterr()
    assert said.out.startswith("1 of 2 steps held")
    assert said.err == "Error: Second: rows: expected 1, saw 2\n"


def test_other_errors_than_failed_checks_stop_the_demo():
    report = Report(lambda _: None)
    with pytest.raises(ConnectionResetError):
        report.run("First", lambda: (_ for _ in ()).throw(ConnectionResetError()))


def test_an_api_that_answers_wrongly_fails_the_first_step():
    transport = httpx.MockTransport(lambda _: httpx.Response(500, text="broken"))
    with httpx.Client(transport=transport, base_url="http://demo") as client:
        _, action = next(ApiChecks(client).steps())
        with pytest.raises(CheckFailedError, match="POST /users: expected 201, saw 500"):
            action()
