"""The pytest plugin: real servers for a test run, a database per worker, and a rollback after each test.

Nothing is started before a test asks for it, and importing this module imports neither SQLAlchemy nor a driver.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

import pytest

from dotmac.database.errors import ConfigurationError, DatabaseError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from contextlib import AbstractContextManager

    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
    from sqlalchemy.orm import Session

    from dotmac.database.testing._proxy import FaultProxy
    from dotmac.database.testing._servers import PostgresServer, WorkerDatabase
    from dotmac.database.testing._shared import TestRun
    from dotmac.database.testing._statements import StatementLog

try:
    from pytest_asyncio import fixture as async_fixture
except ImportError:  # the async fixtures then fail in pytest's own words; the others work
    async_fixture = pytest.fixture  # type: ignore[assignment]

_VERSIONS = ("18", "17", "system")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose servers; each has an environment variable too."""
    group = parser.getgroup("dotmac-database", "real database servers")
    for option, what in (
        ("pg", "PostgreSQL to use as its administrator, instead of starting one"),
        ("redis", "Redis or Valkey to use, instead of starting one"),
        ("mysql", "MySQL or MariaDB to use; tests that need one are skipped without it"),
        ("citus", "database on a Citus coordinator to use; tests that need one are skipped without it"),
    ):
        group.addoption(
            f"--{option}-url",
            metavar="URL",
            default=os.environ.get(f"DOTMAC_TEST_{option.upper()}_URL"),
            help=f"{what} (DOTMAC_TEST_{option.upper()}_URL).",
        )
    group.addoption(
        "--pg-version",
        choices=_VERSIONS,
        default=os.environ.get("DOTMAC_TEST_PG_VERSION", "18"),
        help="PostgreSQL to start (DOTMAC_TEST_PG_VERSION); default 18.",
    )


_RUN = pytest.StashKey["TestRun"]()


def _run_of(config: pytest.Config) -> TestRun:
    from dotmac.database.testing._shared import TestRun  # noqa: PLC0415 - the plugin imports lightly

    if _RUN not in config.stash:
        workerinput = getattr(config, "workerinput", None)
        config.stash[_RUN] = TestRun.begin() if workerinput is None else TestRun.join(workerinput)
    return config.stash[_RUN]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker where the run's shared directory is."""
    node.workerinput["dotmac_test_run"] = _run_of(node.config).invitation()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the run's servers, in the process that owns them."""
    run = config.stash.get(_RUN, None)
    if run is None or run.owner_pid != os.getpid():
        return
    from dotmac.database.testing._servers import end_servers  # noqa: PLC0415 - the plugin imports lightly

    del config.stash[_RUN]
    try:
        end_servers(run)
    finally:
        run.end()


@pytest.fixture(scope="session")
def dotmac_postgres(request: pytest.FixtureRequest) -> PostgresServer:
    """A running PostgreSQL, shared by all workers: ``url()``, ``create_database()``, ``drop_database()``."""
    from dotmac.database.testing._servers import postgres_for  # noqa: PLC0415 - the plugin imports lightly

    options = request.config.option
    try:
        return postgres_for(_run_of(request.config), url=options.pg_url, version=options.pg_version)
    except DatabaseError as error:
        pytest.fail(f"{error} To use a server that runs already, pass --pg-url.", pytrace=False)


@pytest.fixture(scope="session")
def dotmac_migrate() -> Callable[[str], Awaitable[object] | object]:
    """Override this with a function, plain or async, that migrates the database at the URL it is given.

    It is called once per run, on the template that every worker's database is copied from.
    """

    def nothing(url: str) -> None:
        del url

    return nothing


@pytest.fixture(scope="session")
def dotmac_database(
    request: pytest.FixtureRequest,
    dotmac_postgres: PostgresServer,
    dotmac_migrate: Callable[[str], Awaitable[object] | object],
) -> Iterator[WorkerDatabase]:
    """A database of this worker's own, migrated by `dotmac_migrate`: ``name``, ``url(driver, role)``."""
    from dotmac.database.testing._servers import WorkerDatabase, make_template  # noqa: PLC0415 - the plugin imports lightly

    run = _run_of(request.config)
    template = make_template(run, dotmac_postgres, dotmac_migrate)
    name = f"{run.prefix}_{run.worker}"
    dotmac_postgres.create_database(name, template)
    yield WorkerDatabase(dotmac_postgres, name)
    dotmac_postgres.drop_database(name)


@pytest.fixture(scope="session")
def dotmac_engine(dotmac_database: WorkerDatabase) -> Iterator[AsyncEngine]:
    """An async engine on this worker's database; it keeps no connections, so any event loop may use it."""
    from sqlalchemy.pool import NullPool  # noqa: PLC0415 - the plugin imports lightly

    from dotmac.database.engine import create_async_engine  # noqa: PLC0415 - the plugin imports lightly
    from dotmac.database.testing._servers import async_driver  # noqa: PLC0415 - the plugin imports lightly

    engine = create_async_engine(dotmac_database.url(async_driver()), poolclass=NullPool)
    yield engine
    engine.sync_engine.dispose()


@async_fixture
async def dotmac_session(dotmac_engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """An async session; what the test writes, commits included, is rolled back after it."""
    from dotmac.database.engine import create_session_factory  # noqa: PLC0415 - the plugin imports lightly

    factory = create_session_factory(dotmac_engine, join_transaction_mode="create_savepoint")
    async with dotmac_engine.connect() as connection:
        transaction = await connection.begin()
        session = factory(bind=connection)
        try:
            yield session
        finally:
            await session.close()
            await transaction.rollback()


@pytest.fixture(scope="session")
def dotmac_sync_engine(dotmac_database: WorkerDatabase) -> Iterator[Engine]:
    """A blocking engine (psycopg) on this worker's database."""
    from sqlalchemy.pool import NullPool  # noqa: PLC0415 - the plugin imports lightly

    from dotmac.database.engine import create_engine  # noqa: PLC0415 - the plugin imports lightly

    try:
        engine = create_engine(dotmac_database.url("psycopg"), poolclass=NullPool)
    except ConfigurationError:
        pytest.fail("The blocking fixtures need psycopg: install 'dotmac-database[pg]'.", pytrace=False)
    yield engine
    engine.dispose()


@pytest.fixture
def dotmac_sync_session(dotmac_sync_engine: Engine) -> Iterator[Session]:
    """A blocking session; what the test writes, commits included, is rolled back after it."""
    from dotmac.database.engine import create_session_factory  # noqa: PLC0415 - the plugin imports lightly

    factory = create_session_factory(dotmac_sync_engine, join_transaction_mode="create_savepoint")
    with dotmac_sync_engine.connect() as connection:
        transaction = connection.begin()
        session = factory(bind=connection)
        try:
            yield session
        finally:
            session.close()
            transaction.rollback()


@pytest.fixture
def dotmac_fault_proxy(dotmac_postgres: PostgresServer) -> Iterator[FaultProxy]:
    """A proxy in front of the run's PostgreSQL that fails on demand: ``engine = create_engine(proxy.url(…))``."""
    from sqlalchemy import make_url  # noqa: PLC0415 - the plugin imports lightly

    from dotmac.database.testing._proxy import FaultProxy  # noqa: PLC0415 - the plugin imports lightly

    server = make_url(dotmac_postgres.url())
    with FaultProxy(server.host or "127.0.0.1", server.port or 5432) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> str:
    """URL of a Redis or Valkey; of our own one, each worker gets another numbered database."""
    given = cast("str | None", request.config.option.redis_url)
    if given:
        return given
    from dotmac.database.testing._servers import valkey_for  # noqa: PLC0415 - the plugin imports lightly

    run = _run_of(request.config)
    try:
        return valkey_for(run).tcp_url(run.worker_number)
    except DatabaseError as error:
        pytest.fail(f"{error} To use a server that runs already, pass --redis-url.", pytrace=False)


@pytest.fixture(scope="session")
def mysql_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a database of the worker's own on a MySQL or MariaDB that runs already; without one, tests are skipped."""
    given = cast("str | None", request.config.option.mysql_url)
    if not given:
        pytest.skip("needs a MySQL or MariaDB: pass --mysql-url or set DOTMAC_TEST_MYSQL_URL")
    from dotmac.database.testing._mysql import temporary_database  # noqa: PLC0415 - the plugin imports lightly

    with temporary_database(given) as url:
        yield url


@pytest.fixture(scope="session")
def citus_url(request: pytest.FixtureRequest) -> str:
    """URL of a database on a Citus coordinator, shared by all workers as it is; without one, tests are skipped."""
    given = cast("str | None", request.config.option.citus_url)
    if not given:
        pytest.skip("needs a Citus coordinator: pass --citus-url or set DOTMAC_TEST_CITUS_URL")
    return given


@pytest.fixture(scope="session")
def count_statements() -> Callable[..., AbstractContextManager[StatementLog]]:
    """A context manager that fails on a wrong number of statements, given ``exactly=2`` or ``at_most=2``."""
    from dotmac.database.testing._statements import count_statements as count  # noqa: PLC0415 - the plugin imports lightly

    return count


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for ``dotmac_attack`` once for each attack."""
    if "dotmac_attack" in metafunc.fixturenames:
        from dotmac.database.testing.isolation import ATTACKS  # noqa: PLC0415 - the plugin imports lightly

        metafunc.parametrize("dotmac_attack", ATTACKS, ids=str, indirect=True)


@pytest.fixture(scope="session")
def dotmac_isolation_models() -> list[type[Any]]:
    """Override this with your models: those whose rows belong to tenants are attacked by ``dotmac_attack``."""
    pytest.fail(
        "dotmac_attack wants your models: override the fixture dotmac_isolation_models.", pytrace=False
    )


@pytest.fixture(scope="session")
def dotmac_isolation_sessions(request: pytest.FixtureRequest) -> Callable[[], Any]:
    """What makes the attackers' sessions, sync or async; override it to attack your own."""
    from dotmac.database.engine import create_session_factory  # noqa: PLC0415 - the plugin imports lightly

    return create_session_factory(cast("Engine", request.getfixturevalue("dotmac_sync_engine")))


@pytest.fixture(scope="session")
def dotmac_isolation_administrator(dotmac_database: WorkerDatabase) -> Iterator[Engine]:
    """An engine that sees every tenant's rows, to compare with; override it with ``dotmac_isolation_sessions``."""
    from dotmac.database.engine import create_engine  # noqa: PLC0415 - the plugin imports lightly

    engine = create_engine(dotmac_database.url("psycopg", role="admin"))
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def dotmac_isolation_values() -> dict[type[Any], Callable[[str], dict[str, Any]]]:
    """Override this for models whose rows cannot be made up: a function from the tenant to values by attribute."""
    return {}


@pytest.fixture(scope="session")
def dotmac_isolation_range(
    dotmac_isolation_models: list[type[Any]],
    dotmac_isolation_sessions: Callable[[], Any],
    dotmac_isolation_administrator: Engine,
    dotmac_isolation_values: dict[type[Any], Callable[[str], dict[str, Any]]],
) -> Iterator[Callable[[Any], list[Any]]]:
    """Tries an attack on each of the models."""
    from dotmac.database.testing.isolation._range import firing_range  # noqa: PLC0415 - the plugin imports lightly

    with firing_range(
        dotmac_isolation_sessions,
        dotmac_isolation_models,
        dotmac_isolation_administrator,
        dotmac_isolation_values,
    ) as attempt:
        yield attempt


@pytest.fixture
def dotmac_attack(
    request: pytest.FixtureRequest, dotmac_isolation_range: Callable[[Any], list[Any]]
) -> Callable[[], None]:
    """Attacks your models when it is called, and fails if another tenant's row was reached; one test per attack."""
    attack = request.param

    def hold() -> None:
        __tracebackhide__ = True
        from dotmac.database.testing.isolation import assert_isolated  # noqa: PLC0415 - the plugin imports lightly

        found = dotmac_isolation_range(attack)
        assert_isolated(found)
        if all(outcome.not_applicable is not None for outcome in found):
            pytest.skip("; ".join(sorted({outcome.not_applicable for outcome in found})))

    return hold
