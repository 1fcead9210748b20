"""``dotmac-db roles bootstrap``: roles that row-level security binds, and passwords that nobody sees."""

# ruff: noqa: S608 - names of its own making
from __future__ import annotations

import json
import stat
import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from dotmac.database.cli._main import run
from dotmac.database.errors import ConfigurationError
from dotmac.database.tenancy import RolePlan, enable_row_level_security

PASSWORD = "only for this test"

metadata = sa.MetaData()
notes = sa.Table(
    "boot_notes",
    metadata,
    sa.Column("tenant_id", sa.Text, primary_key=True),
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
)


class Place:
    """A database of its own with roles of its own."""

    def __init__(self, server):
        self.server = server
        self.tag = f"boot_{uuid.uuid4().hex[:8]}"
        self.names = {kind: f"{self.tag}_{kind}" for kind in ("owner", "app", "read", "all", "tenant")}
        server.create_database(self.tag)
        self.url = server.url(self.tag, driver="psycopg", role="admin")

    def options(self, *more):
        names = self.names
        return [
            "roles", "bootstrap", "--url", self.url, "--owner", names["owner"], "--application", names["app"],
            "--read-only", names["read"], "--maintenance", names["all"], *more,
        ]  # fmt: skip

    def engine(self, kind):
        url = sa.make_url(self.url)
        if kind != "admin":
            url = url.set(username=self.names[kind], password=PASSWORD)
        return sa.create_engine(url, poolclass=NullPool)

    def execute(self, kind, *statements):
        with self.engine(kind).begin() as connection:
            for statement in statements:
                result = connection.execute(sa.text(statement) if isinstance(statement, str) else statement)
            return result.all() if result.returns_rows else None

    def drop(self):
        self.server.drop_database(self.tag)
        for name in self.names.values():
            self.server.execute(f'DROP ROLE IF EXISTS "{name}"')


@pytest.fixture
def place(dotmac_postgres, monkeypatch):
    for kind in ("OWNER", "APPLICATION", "READ_ONLY", "MAINTENANCE"):
        monkeypatch.setenv(f"DOTMAC_{kind}_PASSWORD", PASSWORD)
    place = Place(dotmac_postgres)
    yield place
    place.drop()


@pytest.fixture
def set_up(place):
    """Roles, then a table of the owner's, secured, with a row of two tenants each."""
    assert run(place.options()) == 0
    with place.engine("owner").begin() as connection:
        metadata.create_all(connection)
        connection.execute(notes.insert(), [{"tenant_id": "acme"}, {"tenant_id": "other"}])
        enable_row_level_security(connection, metadata)
    return place


BIND = "SELECT set_config('app.tenant_id', 'acme', true)"
READ = "SELECT tenant_id FROM boot_notes"


def test_the_application_sees_its_tenant_and_maintenance_everybody(set_up):
    assert set_up.execute("app", BIND, READ) == [("acme",)]
    assert set_up.execute("read", BIND, READ) == [("acme",)]
    assert set_up.execute("owner", BIND, READ) == [("acme",)]
    assert len(set_up.execute("all", READ)) == 2
    set_up.execute("app", BIND, "INSERT INTO boot_notes (tenant_id) VALUES ('acme')")
    assert len(set_up.execute("app", BIND, READ)) == 2


@pytest.mark.parametrize(
    ("kind", "statement"),
    [
        ("app", "TRUNCATE boot_notes"),
        ("app", "CREATE TABLE mine (id integer)"),
        ("app", "CREATE TEMP TABLE boot_notes (id integer)"),
        ("app", "ALTER TABLE boot_notes DISABLE ROW LEVEL SECURITY"),
        ("app", "DROP TABLE boot_notes"),
        ("app", "SELECT setval('boot_notes_id_seq', 1)"),
        ("app", "SELECT last_value FROM boot_notes_id_seq"),
        ("app", "CREATE SCHEMA mine"),
        ("read", "INSERT INTO boot_notes (tenant_id) VALUES ('acme')"),
        ("read", "SET LOCAL transaction_read_only = off; DELETE FROM boot_notes"),
        ("all", "TRUNCATE boot_notes"),
    ],
)  # fmt: skip
def test_what_a_role_may_not_do_is_refused(set_up, kind, statement):
    with pytest.raises(DBAPIError, match=r"permission denied|must be owner|read-only"):
        set_up.execute(kind, *statement.split("; "))


def test_a_second_run_changes_nothing_and_prints_no_password(place, capsys):
    assert run(place.options("--json")) == 0
    first = capsys.readouterr()
    assert sorted(json.loads(first.out)["created"]) == sorted(
        place.names[kind] for kind in ("owner", "app", "read", "all")
    )
    before = place.execute(
        "admin", "SELECT rolname, rolsuper, rolbypassrls, rolcanlogin FROM pg_roles ORDER BY 1"
    )
    assert run(place.options("--json")) == 0
    second = capsys.readouterr()
    assert json.loads(second.out)["created"] == []
    after = place.execute(
        "admin", "SELECT rolname, rolsuper, rolbypassrls, rolcanlogin FROM pg_roles ORDER BY 1"
    )
    assert before == after
    for text in (first.out, first.err, second.out, second.err):
        assert PASSWORD not in text
        assert "SCRAM-SHA-256" not in text


def test_a_dry_run_prints_and_runs_nothing(place, capsys, tmp_path):
    assert run(place.options("--dry-run", "--password-file", str(tmp_path / "none.json"))) == 0
    said = capsys.readouterr()
    assert f'CREATE ROLE "{place.names["app"]}" WITH NOSUPERUSER NOBYPASSRLS' in said.out
    assert "PASSWORD '***'" in said.out
    assert PASSWORD not in said.out
    assert not (tmp_path / "none.json").exists()
    found = place.execute("admin", f"SELECT 1 FROM pg_roles WHERE rolname LIKE '{place.tag}%'")
    assert found == []


def test_a_role_that_became_too_powerful_is_mended(place):
    app, owner = place.names["app"], place.names["owner"]
    assert run(place.options()) == 0
    place.execute(
        "admin",
        f'ALTER ROLE "{app}" SUPERUSER BYPASSRLS CREATEROLE',
        f'GRANT "{owner}" TO "{app}"',
        "CREATE TABLE taken (id integer)",
        f'ALTER TABLE taken OWNER TO "{app}"',
        f'GRANT TRUNCATE ON taken TO "{app}"',
    )
    assert run(place.options()) == 0
    facts = place.execute(
        "admin",
        f"SELECT rolsuper OR rolbypassrls OR rolcreaterole, pg_has_role(oid, '{owner}', 'member'), "
        f"has_table_privilege(oid, 'taken', 'truncate'), (SELECT tableowner FROM pg_tables WHERE tablename = 'taken') "
        f"FROM pg_roles WHERE rolname = '{app}'",
    )
    assert facts == [(False, False, False, owner)]


def test_passwords_are_made_up_into_a_private_file(place, monkeypatch, tmp_path, capsys):
    for kind in ("OWNER", "APPLICATION", "READ_ONLY", "MAINTENANCE"):
        monkeypatch.delenv(f"DOTMAC_{kind}_PASSWORD")
    file = tmp_path / "passwords.json"
    assert run(place.options("--password-file", str(file))) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    passwords = json.loads(file.read_text())
    said = capsys.readouterr()
    assert not any(word in said.out + said.err for word in passwords.values())
    assert run(place.options("--password-file", str(file))) == 0
    assert json.loads(file.read_text()) == passwords
    url = sa.make_url(place.url).set(username=place.names["app"], password=passwords[place.names["app"]])
    with sa.create_engine(url, poolclass=NullPool).connect() as connection:
        assert connection.scalar(sa.text("SELECT current_user")) == place.names["app"]


def test_without_a_password_it_says_so(place, monkeypatch, capsys):
    monkeypatch.delenv("DOTMAC_APPLICATION_PASSWORD")
    assert run(place.options()) == 0
    assert f"{place.names['app']} has no password yet" in capsys.readouterr().err


def test_a_schema_is_reached_by_its_own_role_only(place):
    role = place.names["tenant"]
    place.execute("admin", "CREATE SCHEMA tenant_a", "CREATE TABLE tenant_a.notes (id integer)")
    assert run(place.options("--schema-role", f"tenant_a={role}")) == 0
    with pytest.raises(DBAPIError, match="permission denied for schema"):
        place.execute("app", "SELECT * FROM tenant_a.notes")
    assert place.execute("app", f'SET LOCAL ROLE "{role}"', "SELECT * FROM tenant_a.notes") == []
    place.execute("owner", "CREATE TABLE tenant_a.later (id integer)")
    place.execute("app", f'SET LOCAL ROLE "{role}"', "INSERT INTO tenant_a.later VALUES (1)")
    with pytest.raises(DBAPIError, match="permission denied"):
        place.execute("app", f'SET LOCAL ROLE "{role}"', "TRUNCATE tenant_a.later")
    assert place.execute("admin", f"SELECT rolcanlogin FROM pg_roles WHERE rolname = '{role}'") == [(False,)]


def test_a_schema_that_is_not_there_is_named(place, capsys):
    assert run(place.options("--schema-role", "tenant_x")) == 1
    assert "There is no schema tenant_x" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names",
    [{"owner": ""}, {"owner": "x" * 64}, {"application": "pg_app"}, {"owner": "app"}, {"owner": "a\0b"}],
)
def test_names_that_cannot_be_are_refused(names):
    with pytest.raises(ConfigurationError):
        RolePlan(**names)


def test_a_database_without_roles_says_so(tmp_path, capsys):
    assert run(["roles", "bootstrap", "--url", f"sqlite+aiosqlite:///{tmp_path}/x.db"]) == 1
    assert "PostgreSQL only" in capsys.readouterr().err
