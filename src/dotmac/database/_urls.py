"""Take a database URL apart and put it together again for another driver.

A URL is a notation for parts. Everything here is pure: no connection is made, and no message shows a URL.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qsl, urlencode

from sqlalchemy.engine import URL, make_url

from dotmac.database.errors import ConfigurationError

_ASYNC_DRIVERS = {
    "postgresql": ("asyncpg", "psycopg"),
    "mysql": ("asyncmy", "aiomysql"),
    "mariadb": ("asyncmy", "aiomysql"),
    "sqlite": ("aiosqlite",),
}
_SYNC_DRIVERS = {
    "postgresql": ("psycopg", "psycopg2"),
    "mysql": ("pymysql", "mysqldb"),
    "mariadb": ("pymysql", "mysqldb"),
    "sqlite": ("pysqlite",),
}
_MODULES = {"mysqldb": "MySQLdb", "pysqlite": "sqlite3"}
_EXTRAS = {
    "asyncpg": "asyncpg",
    "psycopg": "pg",
    "asyncmy": "mysql",
    "pymysql": "mysql",
    "aiosqlite": "sqlite",
}
_ASYNCPG_ONLY = frozenset(
    {
        "prepared_statement_cache_size",
        "prepared_statement_name_func",
        "statement_cache_size",
        "max_cached_statement_lifetime",
        "max_cacheable_statement_size",
        "command_timeout",
        "timeout",
        "direct_tls",
    }
)


def split_url(url: str | URL) -> dict[str, Any]:
    """The parts of ``url``: drivername, host, port, user, password, database, query and what the query settles.

    ``user``, ``password``, ``application_name`` and ``connect_timeout`` given as query parameters, as libpq
    allows, become parts of their own.

    Raises:
        ConfigurationError: ``url`` is not a database URL. The message does not show it.
    """
    try:
        parsed = make_url(url.strip() if isinstance(url, str) else url)
    except Exception:  # noqa: BLE001 - SQLAlchemy and int() quote pieces of the URL, which may be the password
        raise ConfigurationError(
            "The database URL cannot be read. It looks like postgresql://user:password@host:5432/database; a "
            "special character in the user or password is written percent-encoded (@ is %40, / is %2F)."
        ) from None
    query = [(key, value) for key, values in parsed.normalized_query.items() for value in values]
    settled = dict(query)
    parts: dict[str, Any] = {
        "drivername": parsed.drivername.replace("postgres+", "postgresql+").replace("_async", "")
        if parsed.drivername != "postgres"
        else "postgresql",
        "host": parsed.host,
        "port": parsed.port,
        "user": parsed.username or settled.get("user"),
        "password": parsed.password if parsed.password is not None else settled.get("password"),
        "database": parsed.database,
    }
    if parsed.get_backend_name() in {"postgresql", "postgres"}:
        for name in ("application_name", "connect_timeout"):
            if name in settled:
                parts[name] = settled[name]
        taken = {"user", "password", "application_name", "connect_timeout"}
        query = [(key, value) for key, value in query if key not in taken]
    parts["query"] = urlencode(query)
    return parts


def join_url(
    drivername: str,
    *,
    user: str | None,
    password: str | None,
    host: str | None,
    port: int | None,
    database: str | None,
    query: str,
) -> URL:
    """A SQLAlchemy URL from parts; special characters survive."""
    pairs: dict[str, str | tuple[str, ...]] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        known = pairs.get(key)
        pairs[key] = value if known is None else (*((known,) if isinstance(known, str) else known), value)
    if drivername.partition("+")[0] == "sqlite":
        user = password = host = port = None
    return URL.create(drivername, user, password, host or None, port, database, pairs)


def render(url: URL) -> str:
    """``url`` as text, password included, as SQLAlchemy 2.0 and 2.1 both read it back."""
    return url.render_as_string(hide_password=False).replace("%3Amemory%3A", ":memory:")


def async_url(url: URL) -> URL:
    """``url`` for an asyncio driver: the one it names, else the first installed one of its database."""
    return _for_drivers(url, _ASYNC_DRIVERS)


def sync_url(url: URL) -> URL:
    """``url`` for a blocking driver: the one it names, else the first installed one of its database."""
    return _for_drivers(url, _SYNC_DRIVERS)


def _for_drivers(url: URL, drivers: dict[str, tuple[str, ...]]) -> URL:
    backend, _, driver = url.drivername.partition("+")
    if backend not in drivers:
        raise ConfigurationError(
            f"A {backend!r} database is not supported. The URL begins with one of {', '.join(drivers)}, as in "
            "postgresql://user:password@host:5432/database."
        )
    if driver not in drivers[backend] or not _installed(driver):
        driver = _first_installed(backend, drivers[backend])
    name = "sqlite" if driver == "pysqlite" else f"{backend}+{driver}"
    return (
        _with_ssl_spelling(url.set(drivername=name), driver)
        if backend == "postgresql"
        else url.set(drivername=name)
    )


def _with_ssl_spelling(url: URL, driver: str) -> URL:
    """Spell TLS for the driver: libpq says ``sslmode``, asyncpg says ``ssl``; each gets its own word, and only words it knows."""
    query = dict(url.query)
    if driver == "asyncpg":
        if "sslmode" in query:
            query["ssl"] = query.pop("sslmode")
    else:
        if "ssl" in query:
            query["sslmode"] = query.pop("ssl")
        query = {key: value for key, value in query.items() if key not in _ASYNCPG_ONLY}
    return url.set(query=query)


def _first_installed(backend: str, candidates: tuple[str, ...]) -> str:
    for candidate in candidates:
        if _installed(candidate):
            return candidate
    raise ConfigurationError(
        f"No driver for {backend} is installed. Install one of {', '.join(candidates)}, "
        f"for example with: pip install 'dotmac-database[{_EXTRAS[candidates[0]]}]'"
    )


@lru_cache
def _installed(driver: str) -> bool:
    return find_spec(_MODULES.get(driver, driver)) is not None
