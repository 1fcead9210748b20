"""PostgreSQL servers as tests see them: our embedded one, or one that runs already, with the same verbs."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from dotmac.database.embedded import EmbeddedPostgres, EmbeddedValkey, PostgresAddress, ValkeyAddress
from dotmac.database.embedded._wire import quote_identifier, quote_literal
from dotmac.database.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.engine import URL

    from dotmac.database.embedded._postgres import Version
    from dotmac.database.testing._shared import TestRun

Role = Literal["app", "admin"]


class PostgresServer(Protocol):
    """A running PostgreSQL with two roles: ``app`` owns the databases made here, ``admin`` makes them."""

    def url(self, database: str | None = None, *, driver: str | None = "asyncpg", role: Role = "app") -> str:
        """A URL with its password; without ``database``, of a database that is always there."""
        ...

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database that role ``app`` owns, as a copy of ``template`` if given."""
        ...

    def drop_database(self, name: str) -> None:
        """Drop a database, closing its connections; nothing happens when there is none."""
        ...

    def execute(self, sql: str) -> None:
        """Run one statement as ``admin``, outside a transaction."""
        ...


@dataclass(frozen=True, slots=True)
class EmbeddedTestServer:
    """Our own server, shared by all workers."""

    address: PostgresAddress

    def url(self, database: str | None = None, *, driver: str | None = "asyncpg", role: Role = "app") -> str:
        """See `PostgresServer.url`."""
        return self.address.url(database or "app", driver=driver, role=role)

    def create_database(self, name: str, template: str | None = None) -> None:
        """See `PostgresServer.create_database`."""
        self.address.create_database(name, template=template)

    def drop_database(self, name: str) -> None:
        """See `PostgresServer.drop_database`."""
        self.address.drop_database(name)

    def execute(self, sql: str) -> None:
        """See `PostgresServer.execute`."""
        self.address.execute(sql)


@dataclass(frozen=True, slots=True)
class ExternalTestServer:
    """A server that was given by URL; role ``app`` is one of our own there, without privileges.

    Attributes:
        admin_url: The URL that was given.
        user: Name of the role made for this run.
        password: Its password.
        database: The database that is always there.
    """

    admin_url: URL = field(repr=False)
    user: str
    password: str = field(repr=False)
    database: str

    def url(self, database: str | None = None, *, driver: str | None = "asyncpg", role: Role = "app") -> str:
        """See `PostgresServer.url`."""
        url = self.admin_url.set(
            drivername="postgresql" if driver is None else f"postgresql+{driver}",
            database=database or (self.database if role == "app" else self.admin_url.database),
        )
        if role == "app":
            url = url.set(username=self.user, password=self.password)
        return url.render_as_string(hide_password=False)

    def create_database(self, name: str, template: str | None = None) -> None:
        """See `PostgresServer.create_database`."""
        source = "" if template is None else f" TEMPLATE {quote_identifier(template)}"
        self.execute(f"CREATE DATABASE {quote_identifier(name)} OWNER {quote_identifier(self.user)}{source}")

    def drop_database(self, name: str) -> None:
        """See `PostgresServer.drop_database`."""
        self.execute(f"DROP DATABASE IF EXISTS {quote_identifier(name)} WITH (FORCE)")

    def execute(self, sql: str) -> None:
        """See `PostgresServer.execute`."""
        _fetch(self.admin_url, sql)

    def set_up(self) -> None:
        """Create the role and its database."""
        role = quote_identifier(self.user)
        self.execute(
            f"CREATE ROLE {role} LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD {quote_literal(self.password)}"
        )
        # An administrator who is no superuser may only give databases to roles it belongs to.
        self.execute(f"GRANT {role} TO CURRENT_USER")
        self.create_database(self.database)

    def tear_down(self) -> None:
        """Drop every database the role owns, and the role."""
        owners = _fetch(self.admin_url, "SELECT datname, pg_get_userbyid(datdba) FROM pg_database")
        for name, owner in owners:
            if owner == self.user:
                self.drop_database(name)
        self.execute(f"DROP ROLE IF EXISTS {quote_identifier(self.user)}")


@dataclass(frozen=True, slots=True)
class WorkerDatabase:
    """A database of this worker's own.

    Attributes:
        server: The server it is on.
        name: Its name there.
    """

    server: PostgresServer
    name: str

    def url(self, driver: str | None = "asyncpg", role: Role = "app") -> str:
        """A URL with its password; see `PostgresServer.url`."""
        return self.server.url(self.name, driver=driver, role=role)


def postgres_for(run: TestRun, *, url: str | None, version: Version) -> PostgresServer:
    """The run's PostgreSQL: started, or made ready where ``url`` points, by the first process that asks.

    Raises:
        EmbeddedServerError: It cannot be started.
        ConfigurationError: ``url`` is no PostgreSQL URL, or no driver is installed to reach it.
    """
    if url is not None:
        return _external(run.once("postgres", lambda: _set_up_external(run, url)))

    def start() -> dict[str, Any]:
        server = EmbeddedPostgres(version, owner_pid=run.owner_pid).start()
        return server.detach().to_json()

    return EmbeddedTestServer(PostgresAddress.from_json(run.once("postgres", start)))


def valkey_for(run: TestRun) -> ValkeyAddress:
    """The run's Valkey, started by the first process that asks.

    Raises:
        EmbeddedServerError: It cannot be started.
    """

    def start() -> dict[str, Any]:
        server = EmbeddedValkey(tcp=True, owner_pid=run.owner_pid).start()
        return server.detach().to_json()

    return ValkeyAddress.from_json(run.once("valkey", start))


def end_servers(run: TestRun) -> None:
    """Stop what the run started and drop what it made."""
    made = run.made("postgres")
    if made is not None and "admin_url" in made:
        _external(made).tear_down()
    elif made is not None:
        PostgresAddress.from_json(made).shut_down()
    made = run.made("valkey")
    if made is not None:
        ValkeyAddress.from_json(made).shut_down()


def make_template(
    run: TestRun, server: PostgresServer, migrate: Callable[[str], Awaitable[object] | object]
) -> str:
    """Name of the run's template database, made and migrated by the first process that asks."""
    name = f"{run.prefix}_template"

    def make() -> dict[str, Any]:
        server.create_database(name)
        try:
            call_anywhere(migrate, server.url(name, driver=async_driver()))
            # CREATE DATABASE refuses a template with open connections, which a migration easily leaves behind.
            server.execute(f"ALTER DATABASE {quote_identifier(name)} ALLOW_CONNECTIONS false")
            server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "  # noqa: S608 - quoted
                f"WHERE datname = {quote_literal(name)}"
            )
        except BaseException:
            server.drop_database(name)
            raise
        return {"name": name}

    made: str = run.once("template", make)["name"]
    return made


def async_driver() -> str:
    """``"asyncpg"`` where it is installed, else ``"psycopg"``."""
    return "asyncpg" if importlib.util.find_spec("asyncpg") else "psycopg"


def call_anywhere(function: Callable[[str], Awaitable[object] | object], argument: str) -> None:
    """Call a plain or async function from synchronous code, whether or not a loop runs in this thread."""

    async def finish(result: Awaitable[object]) -> None:
        await result

    def call() -> None:
        result = function(argument)
        if inspect.isawaitable(result):
            asyncio.run(finish(result))

    with ThreadPoolExecutor(1) as thread:
        thread.submit(call).result()


def _set_up_external(run: TestRun, url: str) -> dict[str, Any]:
    made = {
        "admin_url": url,
        "user": f"{run.prefix}_app",
        "password": secrets.token_urlsafe(24),
        "database": f"{run.prefix}_default",
    }
    _external(made).set_up()
    return made


def _external(made: dict[str, Any]) -> ExternalTestServer:
    from sqlalchemy import make_url  # noqa: PLC0415 - the plugin imports lightly
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415 - the plugin imports lightly

    try:
        url = make_url(made["admin_url"])
    except ArgumentError:
        raise ConfigurationError(
            "--pg-url is not a URL. Write postgresql://user:password@host:port/database."
        ) from None
    if url.get_backend_name() != "postgresql":
        raise ConfigurationError(f"--pg-url is a URL for {url.get_backend_name()}. Write postgresql://….")
    return ExternalTestServer(url, made["user"], made["password"], made["database"])


def _fetch(url: URL, sql: str) -> list[tuple[Any, ...]]:
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    if importlib.util.find_spec("psycopg"):
        import psycopg  # noqa: PLC0415 - optional

        with psycopg.connect(plain, autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []
    if importlib.util.find_spec("asyncpg"):
        found: list[tuple[Any, ...]] = []
        call_anywhere(lambda dsn: _fetch_asyncpg(dsn, sql, found), plain)
        return found
    raise ConfigurationError(
        "--pg-url needs a driver: install 'dotmac-database[pg]' or 'dotmac-database[asyncpg]'."
    )


async def _fetch_asyncpg(dsn: str, sql: str, found: list[tuple[Any, ...]]) -> None:
    import asyncpg  # type: ignore[import-untyped]  # noqa: PLC0415 - optional

    connection = await asyncpg.connect(dsn)
    try:
        found.extend(tuple(row) for row in await connection.fetch(sql))
    finally:
        await connection.close()
