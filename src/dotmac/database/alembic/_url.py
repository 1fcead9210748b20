"""Which database to migrate: the command line first, then the environment, then the configuration file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from alembic import context
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from dotmac.database._urls import async_url
from dotmac.database.errors import ConfigurationError
from dotmac.database.settings import DatabaseSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.config import Config
    from sqlalchemy import URL

CONNECTION: Final = "connection"
URL_ATTRIBUTE: Final = "url"
MIGRATION_VARIABLE: Final = "MIGRATION_DATABASE_URL"
_OPTION: Final = "sqlalchemy.url"
# What `alembic init` writes into a new alembic.ini.
_PLACEHOLDER: Final = "driver://user:pass@localhost/dbname"
_LOCATION_FIELDS: Final = frozenset({"host", "port", "user", "password", "database"})


def get_alembic_config_url(*, escape: bool = True) -> str:
    """The URL to migrate, password included, for ``config.set_main_option("sqlalchemy.url", …)`` in ``env.py``.

    The first of: the ``url`` of `upgrade` and its family, ``alembic -x url=…``, ``MIGRATION_DATABASE_URL``, the
    ``DATABASE_…`` and ``DB_…`` variables of `DatabaseSettings`, ``sqlalchemy.url`` of the configuration file.
    `run_migrations` finds it by itself.

    Args:
        escape: Double each ``%``, as Alembic's configuration wants it (a password with ``@`` or ``%`` is written with
            ``%`` in a URL). Pass False to use the text anywhere else, such as in ``create_engine``.

    Raises:
        ConfigurationError: There is none, or it is not a URL.
    """
    found = migration_url(context.config).render_as_string(hide_password=False)
    return found.replace("%", "%%") if escape else found


def migration_url(
    config: Config, *, url: str | URL | None = None, settings: DatabaseSettings | None = None
) -> URL:
    """Same as `get_alembic_config_url`, as a `URL`; ``url`` and ``settings`` come between ``-x`` and the environment."""
    for source, candidate in _candidates(config, url, settings):
        if candidate:
            return _parse(candidate, source)
    raise ConfigurationError(
        f"No database to migrate was given. Set DATABASE_URL (or {MIGRATION_VARIABLE}, where the owner of the tables is "
        f"another role), pass alembic -x url=…, or set sqlalchemy.url in the Alembic configuration."
    )


def _candidates(
    config: Config, url: str | URL | None, settings: DatabaseSettings | None
) -> Iterator[tuple[str, str | URL | None]]:
    # One after the other: settings that cannot be read matter only if nothing before them names a database.
    yield "the url argument", config.attributes.get(URL_ATTRIBUTE)
    yield "alembic -x url=…", _x_argument(config)
    yield "run_migrations(url=…)", url
    if settings is not None:
        yield "run_migrations(settings=…)", settings.url
    yield MIGRATION_VARIABLE, os.environ.get(MIGRATION_VARIABLE)
    yield "the environment", _environment_url()
    yield f"{_OPTION} in the Alembic configuration", _configured_url(config)


def _x_argument(config: Config) -> str | None:
    # Read from the options rather than from alembic.context, which exists only inside env.py.
    for argument in getattr(config.cmd_opts, "x", None) or ():
        key, _, value = argument.partition("=")
        if key == "url":
            return str(value)
    return None


def _environment_url() -> str | URL | None:
    settings = DatabaseSettings()
    # Its defaults point at a server on this machine: they must not hide the configuration file's URL.
    return settings.url if settings.model_fields_set & _LOCATION_FIELDS else None


def _configured_url(config: Config) -> str | None:
    configured = config.get_main_option(_OPTION)
    return None if configured == _PLACEHOLDER else configured


def _parse(candidate: str | URL, source: str) -> URL:
    try:
        url = make_url(candidate)
        backend, _, driver = url.drivername.partition("+")
        url.set(drivername="postgresql" if backend == "postgres" else backend).get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError):
        # Without the cause: its message quotes the URL, or the piece of a password that was taken for a port.
        raise ConfigurationError(
            f"The database URL from {source} is not one SQLAlchemy knows. It looks like "
            f"postgresql+asyncpg://user:password@host:5432/database, with special characters percent-encoded."
        ) from None
    if backend == "postgres":
        url = url.set(drivername=f"postgresql+{driver}" if driver else "postgresql")
    # A URL without a driver gets an installed one; asyncpg gets its own spelling of sslmode. Others stay as they are.
    return async_url(url) if driver == "asyncpg" or (not driver and backend != "sqlite") else url
