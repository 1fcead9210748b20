"""Databases, drivers and engines that attacks are tried on. Databases are made once per worker, worlds share them."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import sqlalchemy
import sqlalchemy.ext.asyncio
from isolation_models import FEW_MODELS, MODELS, Attacked
from sqlalchemy import make_url, text
from sqlalchemy.orm import sessionmaker

from dotmac.database import create_async_engine, create_engine, create_session_factory
from dotmac.database.context import current_context
from dotmac.database.engine._sessions import placed_session
from dotmac.database.tenancy import IsolationMode, Placement, enable_row_level_security
from dotmac.database.testing.isolation import ATTACKER, OTHER, Trial, prepare

SCHEMAS = {ATTACKER: "tenant_attacker", OTHER: "tenant_other"}


@dataclass(frozen=True)
class Kind:
    """One way to work with a database.

    Attributes:
        database: Which of `Databases`.
        driver: SQLAlchemy's name of the driver.
        ours: True for our engines and sessions, False for SQLAlchemy's own.
        full: True to try every model.
    """

    database: str
    driver: str
    is_async: bool
    ours: bool = True
    full: bool = False

    def __str__(self) -> str:
        whose = "" if self.ours else "-plain"
        colour = "async" if self.is_async else "sync"
        return f"{self.database}-{self.driver}-{colour}{whose}"


EVERY_KIND = (
    Kind("sqlite", "pysqlite", is_async=False, full=True),
    Kind("sqlite", "pysqlite", is_async=False, ours=False),
    Kind("sqlite", "aiosqlite", is_async=True),
    Kind("bare", "psycopg", is_async=False, full=True),
    Kind("bare", "psycopg", is_async=True),
    Kind("bare", "asyncpg", is_async=True),
    Kind("bare", "asyncpg", is_async=True, ours=False),
    Kind("secured", "psycopg", is_async=False),
    Kind("secured", "psycopg", is_async=True, ours=False),
    Kind("secured", "asyncpg", is_async=True, full=True),
    Kind("secured", "asyncpg", is_async=True, ours=False),
    Kind("schemas", "psycopg", is_async=False),
    Kind("schemas", "asyncpg", is_async=True),
    Kind("databases", "psycopg", is_async=False),
    Kind("databases", "asyncpg", is_async=True),
    Kind("mysql", "pymysql", is_async=False),
    Kind("mysql", "asyncmy", is_async=True),
)
# DOTMAC_ISOLATION_WORLDS=one: one world for each kind of database, for a second run on other versions.
KINDS = (
    tuple({kind.database: kind for kind in EVERY_KIND}.values())
    if os.environ.get("DOTMAC_ISOLATION_WORLDS") == "one"
    else EVERY_KIND
)


@dataclass
class World:
    """A trial under one kind of engine."""

    kind: Kind
    trial: Trial
    runner: asyncio.Runner | None

    @property
    def subjects(self):
        models = MODELS if self.kind.full else FEW_MODELS
        return [subject for subject in self.trial.subjects if subject.model in models]

    def attempt(self, attack, subject):
        return self.run(lambda: self.trial.attempt(attack, subject))

    def run(self, work):
        """Call ``work``, where the driver is async within a greenlet."""
        if self.runner is None:
            return work()

        async def call():
            async with self.trial.sessions() as carrier:
                return await carrier.run_sync(lambda _: work())

        return self.runner.run(call())


class Databases:
    """The databases of one worker, each made on first use with rows of two tenants."""

    def __init__(self, request, directory):
        self._request = request
        self._directory = directory
        self._stack = ExitStack()
        self._made = {}

    def close(self):
        self._stack.close()

    def trial(self, name):
        """A trial on database ``name`` (without sessions), and a function from driver to URL."""
        if name not in self._made:
            self._made[name] = getattr(self, f"_{name}")()
        return self._made[name]

    def _sqlite(self):
        path = self._directory / "isolation.db"
        return self._filled(f"sqlite:///{path}", lambda driver: f"sqlite+{driver}:///{path}")

    def _mysql(self):
        url = make_url(self._request.getfixturevalue("mysql_url"))
        given = lambda driver: url.set(drivername=f"mysql+{driver}").render_as_string(hide_password=False)  # noqa: E731
        return self._filled(given("pymysql"), given)

    def _postgresql(self, suffix):
        server = self._request.getfixturevalue("dotmac_postgres")
        name = f"{self._request.getfixturevalue('dotmac_database').name}_{suffix}"
        server.create_database(name)
        self._stack.callback(server.drop_database, name)
        return server, name

    def _bare(self):
        server, name = self._postgresql("bare")
        return self._filled(
            server.url(name, driver="psycopg"), lambda driver: server.url(name, driver=driver)
        )

    def _secured(self):
        server, name = self._postgresql("secured")
        application = make_url(server.url(name)).username
        return self._filled(
            server.url(name, driver="psycopg", role="admin"),
            lambda driver: server.url(name, driver=driver),
            lambda connection: secure(connection, application),
        )

    def _schemas(self):
        """A schema for each tenant, in one database that the application owns."""
        server, name = self._postgresql("schemas")
        url = server.url(name, driver="psycopg")
        engines = {}
        for tenant, schema in SCHEMAS.items():
            engine = sqlalchemy.create_engine(url, connect_args={"options": f"-c search_path={schema}"})
            with engine.begin() as connection:
                connection.execute(text(f"CREATE SCHEMA {schema}"))
            engines[tenant] = engine
        return self._apart(engines, lambda driver: server.url(name, driver=driver))

    def _databases(self):
        """A database for each tenant."""
        places = {tenant: self._postgresql(schema) for tenant, schema in SCHEMAS.items()}
        engines = {
            tenant: sqlalchemy.create_engine(server.url(name, driver="psycopg"))
            for tenant, (server, name) in places.items()
        }
        return self._apart(
            engines,
            lambda driver: {
                tenant: server.url(name, driver=driver) for tenant, (server, name) in places.items()
            },
        )

    def _apart(self, engines, url_for):
        for engine in engines.values():
            self._stack.callback(engine.dispose)
            Attacked.metadata.create_all(engine)
        return prepare(lambda: None, MODELS, engines), url_for

    def _filled(self, url, url_for, then=lambda _: None):
        engine = sqlalchemy.create_engine(url)
        self._stack.callback(engine.dispose)
        with engine.begin() as connection:
            Attacked.metadata.create_all(connection)
            then(connection)
        return prepare(lambda: None, MODELS, engine), url_for


def secure(connection, application, source=Attacked.metadata):
    """Row-level security, and a role that owns nothing."""
    enable_row_level_security(connection, source)
    connection.execute(
        text(f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "{application}"')
    )
    connection.execute(text(f'GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO "{application}"'))


@contextmanager
def opened(databases, kind):
    """The world of ``kind``."""
    trial, url_for = databases.trial(kind.database)
    urls = url_for(kind.driver)
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner()) if kind.is_async else None
        if isinstance(urls, dict):
            factories = {tenant: new_factory(stack, runner, kind, url) for tenant, url in urls.items()}
            sessions = lambda: _placed(factories, IsolationMode.DATABASE)  # noqa: E731
        elif kind.database == "schemas":
            factory = new_factory(stack, runner, kind, urls)
            factories = dict.fromkeys(SCHEMAS, factory)
            sessions = lambda: _placed(factories, IsolationMode.SCHEMA)  # noqa: E731
        else:
            sessions = new_factory(stack, runner, kind, urls)
        yield World(kind, replace(trial, sessions=sessions), runner)


def _placed(factories, mode):
    """A session where the current tenant's rows live; without a tenant, one on the first database."""
    tenant = current_context().tenant_id
    session = factories[tenant or ATTACKER]()
    if tenant is None:
        return session
    schema = SCHEMAS[tenant] if mode is IsolationMode.SCHEMA else None
    return placed_session(session, Placement(tenant_id=tenant, mode=mode, schema=schema))


def new_factory(stack, runner, kind, url):
    """Sessions on ``url``, disposed of with ``stack``."""
    # The next session is to get the connection that the one before it gave back.
    arguments = {} if kind.database == "sqlite" else {"pool_use_lifo": True}
    if kind.is_async:
        engine = (create_async_engine if kind.ours else sqlalchemy.ext.asyncio.create_async_engine)(
            url, **arguments
        )
        stack.callback(lambda: runner.run(engine.dispose()))
        plain = sqlalchemy.ext.asyncio.async_sessionmaker
    else:
        engine = (create_engine if kind.ours else sqlalchemy.create_engine)(url, **arguments)
        stack.callback(engine.dispose)
        plain = sessionmaker
    return (create_session_factory if kind.ours else plain)(engine)
