"""The plugin in other people's test suites: with and without xdist, in both asyncio modes, on servers of theirs."""

from __future__ import annotations

import re
import secrets
import sys
from pathlib import Path

import pytest

from dotmac.database.embedded import EmbeddedPostgres

_TESTS = """
    import pytest
    from sqlalchemy import text

    @pytest.mark.parametrize("number", range(4))
    def test_migrated(dotmac_sync_session, number):
        dotmac_sync_session.execute(text("INSERT INTO note VALUES (:number)"), {"number": number})
        dotmac_sync_session.commit()
        assert dotmac_sync_session.scalar(text("SELECT count(*) FROM note")) == 1
"""

_MIGRATE = """
    import pytest
    from sqlalchemy import create_engine, make_url, text

    @pytest.fixture(scope="session")
    def dotmac_migrate():
        def migrate(url):
            # The engine keeps its connection open, as a migration tool may.
            engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
            with engine.begin() as connection:
                connection.execute(text("CREATE TABLE note (number int)"))
            with open("migrations.log", "a") as log:
                log.write("migrated\\n")
        return migrate
"""


@pytest.fixture(autouse=True)
def own_suite(pytester, monkeypatch):
    for name in ("PG", "REDIS", "MYSQL"):
        monkeypatch.delenv(f"DOTMAC_TEST_{name}_URL", raising=False)
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")


@pytest.mark.parametrize("workers", [0, 2])
def test_template_is_migrated_once_and_copied_for_each_worker(pytester, workers):
    pytester.makeconftest(_MIGRATE)
    pytester.makepyfile(_TESTS)
    pytester.runpytest_subprocess("-n", str(workers)).assert_outcomes(passed=4)
    assert (pytester.path / "migrations.log").read_text() == "migrated\n"


def test_async_migration_is_awaited(pytester):
    pytester.makeconftest("""
        import pytest
        from sqlalchemy import text
        from sqlalchemy.ext.asyncio import create_async_engine

        @pytest.fixture(scope="session")
        def dotmac_migrate():
            async def migrate(url):
                engine = create_async_engine(url)
                async with engine.begin() as connection:
                    await connection.execute(text("CREATE TABLE note (number int)"))
                await engine.dispose()
            return migrate
    """)
    pytester.makepyfile(_TESTS)
    pytester.runpytest_subprocess().assert_outcomes(passed=4)


def test_failing_migration_says_why(pytester):
    pytester.makeconftest("""
        import pytest

        @pytest.fixture(scope="session")
        def dotmac_migrate():
            def migrate(url):
                raise RuntimeError("no such revision")
            return migrate
    """)
    pytester.makepyfile(_TESTS)
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines(["*RuntimeError: no such revision*"])


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_async_session_works_in_each_asyncio_mode(pytester, mode):
    pytester.makepyfile("""
        import pytest
        from sqlalchemy import text

        @pytest.mark.asyncio
        @pytest.mark.parametrize("time", [1, 2])
        async def test_session(dotmac_session, time):
            await dotmac_session.execute(text("CREATE TABLE note (number int)"))
            await dotmac_session.commit()
    """)
    pytester.runpytest_subprocess(f"--asyncio-mode={mode}").assert_outcomes(passed=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_given_server_is_left_as_it_was(pytester, workers):
    pytester.makeconftest(_MIGRATE)
    pytester.makepyfile(
        _TESTS
        + """
    def test_own_database(dotmac_postgres, worker_id):
        dotmac_postgres.create_database("left_behind_by_" + worker_id)
        assert ":" in dotmac_postgres.url()
"""
    )
    with EmbeddedPostgres() as server:
        everything = "SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles ORDER BY 1"
        before = server.address.execute(everything)
        url = server.url("postgres", role="admin", driver=None)
        pytester.runpytest_subprocess("-n", str(workers), "--pg-url", url).assert_outcomes(passed=5)
        assert server.address.execute(everything) == before


def test_given_server_needs_no_superuser(pytester):
    pytester.makeconftest(_MIGRATE)
    pytester.makepyfile(_TESTS)
    password = secrets.token_urlsafe()
    with EmbeddedPostgres() as server:
        server.address.execute(f"CREATE ROLE tester LOGIN CREATEDB CREATEROLE PASSWORD '{password}'")
        url = f"postgresql+asyncpg://tester:{password}@127.0.0.1:{server.port}/postgres"
        pytester.runpytest_subprocess("--pg-url", url).assert_outcomes(passed=4)


@pytest.mark.parametrize(
    ("url", "message"),
    [("nonsense", "--pg-url is not a URL"), ("mysql://h/d", "--pg-url is a URL for mysql")],
)
def test_wrong_url_is_one_clear_line(pytester, url, message):
    pytester.makepyfile(_TESTS)
    result = pytester.runpytest_subprocess("--pg-url", url)
    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines([f"*{message}*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_workers_share_a_server_and_have_redis_databases_of_their_own(pytester):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("number", range(8))
        def test_note(number, dotmac_postgres, redis_url, worker_id):
            with open(f"{worker_id}.{number}.txt", "w") as file:
                file.write(f"{dotmac_postgres.url()} {redis_url}")
    """)
    pytester.runpytest_subprocess("-n", "2", "--dist=each").assert_outcomes(passed=16)
    lines = {path.name.partition(".")[0]: path.read_text().split() for path in pytester.path.glob("gw*.txt")}
    postgres, redis = zip(*(lines[worker] for worker in ("gw0", "gw1")), strict=True)
    assert len(set(postgres)) == 1
    assert [url.rpartition("/")[2] for url in redis] == ["0", "1"]


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_is_started_or_left_for_tests_that_ask_for_nothing(pytester, workers):
    pytester.makepyfile("""
        import os, sys

        def test_light():
            assert "sqlalchemy" not in sys.modules
            assert "dotmac.database.embedded" not in sys.modules or "PYTEST_XDIST_WORKER" in os.environ
    """)
    pytester.runpytest_subprocess("-n", str(workers), "-p", "no:asyncio").assert_outcomes(passed=1)


def test_server_and_directory_are_gone_after_the_run(pytester):
    pytester.makepyfile("""
        def test_note(dotmac_postgres, redis_url):
            with open("where.txt", "w") as file:
                file.write(f"{dotmac_postgres.address.socket_dir}")
    """)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    assert not Path((pytester.path / "where.txt").read_text()).parent.exists()


@pytest.mark.parametrize("server", ["mysql", "citus"])
def test_a_url_that_is_not_given_skips_with_its_reason(pytester, monkeypatch, server):
    monkeypatch.delenv(f"DOTMAC_TEST_{server.upper()}_URL", raising=False)
    pytester.makepyfile(f"def test_needs_it({server}_url): pass")
    result = pytester.runpytest_subprocess("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines([f"*pass --{server}-url or set DOTMAC_TEST_{server.upper()}_URL*"])


@pytest.mark.parametrize("server", ["redis", "citus"])
def test_a_given_url_is_handed_on(pytester, server):
    pytester.makepyfile(f"def test_it({server}_url): assert {server}_url == 'given'")
    pytester.runpytest_subprocess(f"--{server}-url", "given").assert_outcomes(passed=1)


def test_mysql_tests_get_a_database_of_their_own(pytester, mysql_url):
    pytester.makepyfile(f"""
        from sqlalchemy import make_url
        given = make_url({mysql_url!r})
        def test_it(mysql_url):
            mine = make_url(mysql_url)
            assert mine.set(database=given.database) == given
            assert mine.database != given.database
    """)
    pytester.runpytest_subprocess("--mysql-url", mysql_url).assert_outcomes(passed=1)


def test_missing_server_package_names_the_remedy(pytester):
    pytester.makeconftest("""
        from dotmac.database.embedded import _binaries
        _binaries._wheel_directory = lambda *_: None
        _binaries._system_candidates = list
    """)
    pytester.makepyfile(_TESTS)
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines(["*Install 'dotmac-database?embedded?'*--pg-url*"])


def test_options_are_documented(pytester):
    text = pytester.runpytest_subprocess("--help").stdout.str()
    assert re.search(r"--pg-url=URL", text)
    assert "--pg-version={18,17,system}" in text
    assert "DOTMAC_TEST_REDIS_URL" in text


def test_importing_the_plugin_is_light(pytester):
    script = "import sys, dotmac.database.testing.plugin; print({'sqlalchemy', 'asyncpg', 'redis'} & set(sys.modules))"
    assert pytester.run(sys.executable, "-c", script).outlines == ["set()"]
