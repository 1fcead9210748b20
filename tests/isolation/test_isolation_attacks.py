"""No attack reaches another tenant's rows, on any database, driver or engine; and each one would, were there no guard."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from isolation_worlds import KINDS, Kind, opened
from sqlalchemy import func, select

from dotmac.database.tenancy._guard import switched_off
from dotmac.database.testing.isolation import ATTACKS

# Breaks out of brackets that only a guard would add.
AIMED_AT_GUARDS = {"01-text-condition-that-closes-the-bracket"}
ONLY_ON_MYSQL = {"19-update-with-limit"}

UNGUARDED = [
    Kind("sqlite", "pysqlite", is_async=False, ours=False),
    Kind("bare", "psycopg", is_async=False, ours=False),
]


@pytest.fixture(scope="module")
def unguarded(databases):
    """Worlds that nothing guards."""
    with ExitStack() as stack:
        yield [stack.enter_context(opened(databases, kind)) for kind in UNGUARDED]


@pytest.fixture(scope="module")
def unguarded_mysql(databases):
    with opened(databases, Kind("mysql", "pymysql", is_async=False, ours=False)) as made:
        yield made


@pytest.mark.parametrize("attack", [one for one in ATTACKS if str(one) not in AIMED_AT_GUARDS], ids=str)
def test_the_attack_succeeds_where_nothing_guards(request, unguarded, attack):
    worlds = [request.getfixturevalue("unguarded_mysql")] if str(attack) in ONLY_ON_MYSQL else unguarded
    found = []
    with switched_off():
        for world in worlds:
            for subject in world.trial.subjects:
                subject.tries_unsafe_keys = True
                try:
                    outcome = world.attempt(attack, subject)
                finally:
                    subject.tries_unsafe_keys = False
                found.append(str(outcome))
                if outcome.leaks:
                    return
                if outcome.error == "NotSupportedError":
                    pytest.skip("this server was built without it")
    pytest.fail("\n".join(found))


@pytest.mark.parametrize("world", KINDS, indirect=True, ids=str)
@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_the_attack_is_stopped(world, attack):
    for subject in world.subjects:
        outcome = world.attempt(attack, subject)
        assert outcome.held, outcome


@pytest.mark.parametrize("world", KINDS, indirect=True, ids=str)
def test_own_rows_are_served_all_the_same(world):
    def work(subject):
        with world.trial.open(subject.tenant) as session:
            rows = session.scalars(select(subject.model)).unique().all()
            count = session.scalar(select(func.count()).select_from(subject.table))
            return rows, count, session.get(subject.model, subject.key_of(subject.mine))

    for subject in world.subjects:
        rows, count, one = world.run(lambda subject=subject: work(subject))
        assert len(rows) == count == subject.own_total
        assert one is not None
