"""Worlds for the attacks: each database once per worker, each engine once per module."""

from __future__ import annotations

import pytest
from isolation_worlds import Databases


@pytest.fixture(scope="session")
def databases(request, tmp_path_factory):
    made = Databases(request, tmp_path_factory.mktemp("isolation"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def world(request, databases):
    from isolation_worlds import opened  # noqa: PLC0415 - wants the guard

    with opened(databases, request.param) as made:
        yield made
