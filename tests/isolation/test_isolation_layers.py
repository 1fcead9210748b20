"""Which layer stops an attack by itself: the guard is off, and the server's, or the separation of tables, is left."""

from __future__ import annotations

import warnings

import pytest
from isolation_worlds import Kind, opened
from test_isolation_table import ROWS

from dotmac.database.tenancy._guard import switched_off
from dotmac.database.testing.isolation import ATTACKS

SECURED = [
    Kind("secured", "psycopg", is_async=False),
    Kind("secured", "psycopg", is_async=True),
    Kind("secured", "asyncpg", is_async=True),
]
APART = [Kind("schemas", "psycopg", is_async=False), Kind("databases", "psycopg", is_async=False)]
# What an own row is labelled with is nothing to a table that holds one tenant's rows: it stays where it is.
ONLY_LABELS = {12, 13, 14, 15, 16, 23}
# One role uses all schemas, so what it leaves on a connection the next tenant finds, and its locks and channels are the
# whole database's.
ONE_ROLE = {36, 48, 54}


@pytest.fixture(scope="module", params=SECURED, ids=str)
def secured(request, databases):
    with opened(databases, request.param) as world:
        yield world


@pytest.fixture(scope="module", params=APART, ids=str)
def apart(request, databases):
    with opened(databases, request.param) as world:
        yield world


def attempted(world, attack):
    with switched_off(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SQLAlchemy finds that nothing was deleted
        return [world.attempt(attack, subject) for subject in world.subjects]


@pytest.mark.parametrize(
    "attack", [one for one in ATTACKS if "row-level security" in ROWS[one.number]], ids=str
)
def test_row_level_security_alone_stops_what_the_page_says(secured, attack):
    for outcome in attempted(secured, attack):
        assert outcome.held, outcome


@pytest.mark.parametrize(
    "attack", [one for one in ATTACKS if one.number not in ONLY_LABELS | ONE_ROLE], ids=str
)
def test_tables_apart_alone_keep_every_row_to_its_tenant(apart, attack):
    for outcome in attempted(apart, attack):
        assert outcome.held, outcome


@pytest.mark.parametrize("number", [31, 36, 53])
def test_what_only_the_guard_stops_succeeds_under_row_level_security(secured, number):
    found = [
        outcome for attack in ATTACKS if attack.number == number for outcome in attempted(secured, attack)
    ]
    assert ROWS[number] == {"guard"}
    assert any(outcome.leaks for outcome in found)
