"""``dotmac-db prestart``: ready, not ready, and never going to be."""

from __future__ import annotations

import json

import pytest

from dotmac.database.cli._main import run


@pytest.fixture(autouse=True)
def _no_settings_of_the_shell(monkeypatch):
    for name in ("DATABASE_HOST", "DATABASE_PORT", "DATABASE_NAME"):
        monkeypatch.delenv(name, raising=False)


def test_a_database_that_answers_is_ready(dotmac_postgres, monkeypatch, capsys):
    monkeypatch.setenv("DATABASE_URL", dotmac_postgres.url())
    assert run(["prestart", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ready": True, "attempts": 1}


def test_a_missing_database_is_told_at_once(dotmac_postgres, monkeypatch, capsys):
    monkeypatch.setenv("DATABASE_URL", dotmac_postgres.url("no_such_database"))
    assert run(["prestart", "--timeout", "600"]) == 1
    assert "the database does not exist" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_waited_for_and_then_given_up(monkeypatch, capsys):
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:SECRET@127.0.0.1:1/app")
    assert run(["prestart", "--timeout", "2"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Attempt 1: ConnectionRefusedError")
    assert "did not answer within" in said
    assert "SECRET" not in said


def test_a_timeout_of_nothing_is_wrong_usage(capsys):
    assert run(["prestart", "--timeout", "0"]) == 2
    assert "--timeout" in capsys.readouterr().err
