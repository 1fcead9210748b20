"""Worlds for the attacks: each database once per worker, each engine once per module."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

if find_spec("dotmac.database.tenancy._guard") is None:
    collect_ignore_glob = ["test_isolation_*.py"]


@pytest.fixture(scope="session")
def databases(request, tmp_path_factory):
    from isolation_worlds import Databases  # noqa: PLC0415 - wants the guard

    made = Databases(request, tmp_path_factory.mktemp("isolation"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def world(request, databases):
    from isolation_worlds import opened  # noqa: PLC0415 - wants the guard

    with opened(databases, request.param) as made:
        yield made
