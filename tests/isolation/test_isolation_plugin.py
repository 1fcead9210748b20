"""The same attacks on a user's models, by the plugin's fixtures and by a function."""

from __future__ import annotations

import pytest
import sqlalchemy
from isolation_models import Attacked, Country, Note, Ticket
from isolation_worlds import Kind, opened

from dotmac.database import create_async_engine, create_engine, create_session_factory
from dotmac.database.tenancy._guard import switched_off
from dotmac.database.testing.isolation import (
    ATTACKS,
    assert_isolated,
    isolation_report,
    isolation_report_async,
)

ATTACKS_BY_KEY = [attack for attack in ATTACKS if attack.number == 5]

PROJECT = """
import pytest
from sqlalchemy import String, create_engine
from sqlalchemy.orm import Mapped, mapped_column
import dotmac.database
from dotmac.database import TenantModel, create_session_factory

class Invoice(TenantModel):
    __tablename__ = "plugin_invoices"
    text: Mapped[str] = mapped_column(String(100))

@pytest.fixture(scope="session")
def dotmac_isolation_models():
    return [Invoice]

@pytest.fixture(scope="session")
def dotmac_isolation_administrator(tmp_path_factory):
    engine = create_engine(f"sqlite:///{tmp_path_factory.mktemp('x')}/x.db")
    Invoice.__table__.create(engine)
    yield engine
    engine.dispose()

@pytest.fixture(scope="session")
def dotmac_isolation_sessions(dotmac_isolation_administrator):
    engine = dotmac.database.create_engine(dotmac_isolation_administrator.url.set(drivername="sqlite"))
    yield create_session_factory(engine)
    engine.dispose()

def test_isolation(dotmac_attack):
    dotmac_attack()
"""


def test_the_plugin_runs_one_test_for_each_attack(pytester):
    pytester.makepyfile(PROJECT)
    result = pytester.runpytest_inprocess(
        "-q",
        "-k",
        "bulk or 01 or get",
        "-p",
        "no:cacheprovider",
        "-o",
        "asyncio_default_fixture_loop_scope=function",
    )
    found = result.parseoutcomes()
    assert found["passed"] > 20
    assert "failed" not in found
    assert "errors" not in found


def test_a_report_names_what_leaked(databases):
    with opened(databases, Kind("sqlite", "pysqlite", is_async=False, ours=False)) as world:
        engine = next(iter(world.trial.administrators.values()))
        held = isolation_report(world.trial.sessions, [Country], engine)
        assert held == []
        with switched_off(), pytest.raises(AssertionError, match="05-get-by-foreign-key on Note"):
            assert_isolated(world.trial.attempt(attack, world.subjects[0]) for attack in ATTACKS_BY_KEY)


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_report_covers_every_model(tmp_path, is_async):
    administrator = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/report.db")
    Attacked.metadata.create_all(administrator)
    try:
        if is_async:
            engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/report.db")
            report = await isolation_report_async(create_session_factory(engine), [Note], administrator)
            await engine.dispose()
        else:
            engine = create_engine(f"sqlite:///{tmp_path}/report.db")
            report = isolation_report(create_session_factory(engine), [Note, Ticket], administrator)
            engine.dispose()
        assert_isolated(report)
        assert {outcome.model for outcome in report} == ({"Note"} if is_async else {"Note", "Ticket"})
        with administrator.connect() as connection:
            assert (
                connection.scalar(sqlalchemy.select(sqlalchemy.func.count()).select_from(Note.__table__)) == 0
            )
    finally:
        administrator.dispose()
