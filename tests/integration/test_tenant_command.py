from __future__ import annotations

import io
import json
import sys
import uuid

import pytest

from dotmac.database.cli import _main


@pytest.fixture
def tenant(dotmac_postgres, monkeypatch, capsys):
    """Runs ``dotmac-db tenant …`` on a database of the test's own: status, output, errors."""
    name = f"tenant_command_{uuid.uuid4().hex[:12]}"
    dotmac_postgres.create_database(name)
    monkeypatch.setenv("ADMIN_DATABASE_URL", dotmac_postgres.url(name))
    (yield lambda *arguments: (_main.run(["tenant", *arguments]), *capsys.readouterr()))
    dotmac_postgres.drop_database(name)


def test_the_life_of_a_tenant(tenant):
    assert tenant("init")[0] == 0
    assert tenant("init")[0] == 0
    status, output, _ = tenant("create", "acme-inc", "--mode", "schema", "--connections", "4", "--json")
    made = json.loads(output)[0]
    assert (status, made["schema"], made["quotas"]) == (0, "tenant_acme__inc", {"connections": 4})
    assert "acme-inc" in tenant("list")[1]
    assert json.loads(tenant("suspend", "acme-inc", "--json")[1])[0]["status"] == "suspended"
    assert json.loads(tenant("list", "--status", "active", "--json")[1]) == []
    assert json.loads(tenant("resume", "acme-inc", "--json")[1])[0]["status"] == "active"
    assert "tenant_acme__inc" in tenant("rename", "acme-inc", "apex")[2]
    assert json.loads(tenant("show", "apex", "--json")[1])["id"] == made["id"]
    assert "active" in tenant("show", "apex")[1]
    assert tenant("drop", "apex", "--yes")[0] == 0
    assert json.loads(tenant("list", "--json")[1]) == []


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("show", "nobody"), 3, "no tenant 'nobody'"),
        (("create", "acme"), 4, "already"),
        (("create", "taken", "--mode", "schema"), 5, "exists already"),
        (("create", "Acme'"), 6, "is no slug"),
        (("create", "apex", "--rows", "invoices"), 2, "TABLE=N"),
        (("create", "apex", "--mode", "sideways"), 2, "sideways"),
        (("drop", "acme"), 2, "--yes"),
        (("drop", "acme", "--yes"), 6, "keep_data"),
        (("--models", "nowhere.models:Base", "list"), 2, "nowhere"),
    ],
)
def test_each_kind_of_failure_has_a_status_and_one_line(
    tenant, dotmac_postgres, monkeypatch, arguments, status, message
):
    tenant("init")
    tenant("create", "acme")
    tenant("create", "first", "--mode", "schema", "--schema", "tenant_first")
    tenant("create", "taker", "--mode", "schema", "--schema", "tenant_taken")
    tenant("drop", "taker", "--yes", "--keep-data")  # its schema stays
    ended, output, errors = tenant(*arguments)
    assert (ended, output) == (status, "")
    assert message in errors
    assert "Traceback" not in errors


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("answer", "status", "left"), [("acme", 0, 0), ("apex", 1, 1)])
def test_dropping_asks_for_the_slug(tenant, monkeypatch, answer, status, left):
    tenant("init")
    tenant("create", "acme", "--mode", "schema")
    monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))
    assert tenant("drop", "acme")[0] == status
    assert len(json.loads(tenant("list", "--json")[1])) == left


def test_models_say_what_a_tenant_gets(tenant, tmp_path, monkeypatch):
    (tmp_path / "tenant_command_models.py").write_text(
        "from sqlalchemy import *\n"
        "metadata = MetaData()\n"
        "Table('command_rows', metadata, Column('tenant_id', String(63), primary_key=True))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    models = ("--models", "tenant_command_models:metadata")
    tenant("init")
    status, output, _ = tenant(
        *models, "create", "acme", "--mode", "schema", "--rows", "command_rows=5", "--json"
    )
    assert (status, json.loads(output)[0]["quotas"]) == (0, {"rows": {"command_rows": 5}})


def test_without_init_the_first_command_says_so(tenant):
    status, _, errors = tenant("list")
    assert status == 1
    assert "dotmac-db tenant init" in errors


def test_help_shows_examples(tenant):
    status, output, _ = tenant("--help")
    assert status == 0
    assert "dotmac-db tenant drop acme-inc --yes" in output
