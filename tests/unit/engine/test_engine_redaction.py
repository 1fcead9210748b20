"""Redaction follows an error's causes, however they are linked."""

from __future__ import annotations

from dotmac.database.engine._redaction import _with_causes


def test_an_error_that_is_its_own_cause_is_passed_once():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert list(_with_causes(first)) == [first, second]
