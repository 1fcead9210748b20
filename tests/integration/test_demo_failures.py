"""A demonstration in which something does not hold says so and fails."""

from __future__ import annotations

import uuid

import httpx
import pytest
from sqlalchemy import MetaData, String
from sqlalchemy.orm import Mapped, mapped_column

from dotmac.database import (
    AsyncDatabase,
    Base,
    RequestContext,
    TenantAwareMixin,
    create_async_repository,
    use_context,
)
from dotmac.database.cli._demo_attacks import ATTACKS, attack
from dotmac.database.cli._demo_checks import ApiChecks
from dotmac.database.cli._demo_report import CheckFailedError, ModesTable, Report, require
from dotmac.database.cli.demo import _conclude, _print_modes
from dotmac.database.tenancy._guard import switched_off


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


async def test_the_table_of_modes_says_what_did_not_hold(capsys):
    table = ModesTable(("shared", "schema"))

    async def found():
        require(1, 2, "rows")
        return "one"

    await table.fill("List", "shared", found())
    table.put("List", "schema", "one")
    assert table.failures == ["List, mode shared: rows: expected 1, saw 2"]
    assert table.as_dict()["steps"] == [
        {
            "name": "List",
            "shared": {"seen": "rows: expected 1, saw 2", "holds": False},
            "schema": {"seen": "one", "holds": True},
        }
    ]
    _print_modes(table)
    assert "expected 1" in capsys.readouterr().out


class Loose(Base):
    metadata = MetaData()


class DemoLoose(Loose, TenantAwareMixin):
    __tablename__ = "demo_loose_notes"

    title: Mapped[str] = mapped_column(String(80))


async def test_attacks_reach_the_neighbours_row_where_nothing_guards_it(dotmac_postgres):
    name = f"loose_{uuid.uuid4().hex[:12]}"
    dotmac_postgres.create_database(name)
    try:
        async with AsyncDatabase(dotmac_postgres.url(name)) as database:
            async with database.engine.begin() as connection:
                await connection.run_sync(Loose.metadata.create_all)
            with use_context(RequestContext(tenant_id="next")):
                async with database.create_session() as session:
                    row = await create_async_repository(session, DemoLoose).create({"title": "mine"})
            with switched_off():
                outcomes = await attack(
                    database, DemoLoose, attacker="near", victim="next", victim_row=row.id
                )
            reached = {outcome.attack for outcome in outcomes if not outcome.holds}
            assert {"SELECT without a filter", "Core UPDATE", "Core DELETE", "Text SELECT"} <= reached
            assert len(outcomes) == len(ATTACKS)
    finally:
        dotmac_postgres.drop_database(name)


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
