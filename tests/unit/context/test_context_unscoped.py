"""The way out of tenancy is on the record: a reason, a log line, a count."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dotmac.database import RequestContext, current_context, unscoped, unscoped_uses, use_context
from dotmac.database.context import _unscoped

ACME = RequestContext(tenant_id="acme", user_id="ann", request_id="r-1", client_ip="10.0.0.1")


@pytest.mark.parametrize("reason", ["", " ", "\n"])
def test_a_reason_is_wanted(reason):
    with pytest.raises(ValueError, match="reason"):
        unscoped(reason)


def test_unscoped_work_has_no_tenant_and_keeps_the_rest():
    with use_context(ACME):
        with unscoped("a report") as context:
            assert current_context() is context
            assert context.is_unscoped
            assert (context.tenant_id, context.user_id, context.request_id) == (None, "ann", "r-1")
        assert current_context() == ACME


def test_a_tenant_bound_inside_is_in_force_there():
    with unscoped("a migration"), use_context(ACME):
        assert not current_context().is_unscoped


def test_it_is_undone_after_an_error():
    with pytest.raises(LookupError), unscoped("an import"):
        raise LookupError
    assert not current_context().is_unscoped


def test_it_is_logged_with_its_reason_and_the_line_that_asked(caplog):
    with caplog.at_level(logging.WARNING, "dotmac.database.tenancy"), unscoped("a nightly report"):
        pass
    (record,) = caplog.records
    assert record.getMessage() == "Unscoped database work: a nightly report"
    assert record.unscoped_reason == "a nightly report"
    assert Path(record.pathname).name == Path(__file__).name


def test_uses_are_counted_by_reason_in_all_threads():
    def use(_number: int) -> None:
        with unscoped("a counted report"):
            pass

    before = unscoped_uses().get("a counted report", 0)
    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(use, range(200)))
    assert unscoped_uses()["a counted report"] - before == 200


def test_what_is_returned_is_a_copy():
    unscoped_uses().clear()
    with unscoped("a copied report"):
        pass
    assert "a copied report" in unscoped_uses()


def test_endless_reasons_are_counted_together(monkeypatch):
    monkeypatch.setattr(_unscoped, "_uses", _unscoped.Counter())
    monkeypatch.setattr(_unscoped, "_MAX_REASONS", 2)
    for reason in ("one", "two", "three", "four", "one"):
        with unscoped(reason):
            pass
    assert unscoped_uses() == {"one": 2, "two": 1, "(other reasons)": 2}
