"""What a PostgreSQL connection is opened with, in asyncpg's words and in libpq's.

Both drivers get the same server settings, deadlines and keepalives; arguments written for one driver are translated
for the other or refused, never dropped in silence.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from dotmac.database.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import URL

    from dotmac.database.settings import DatabaseSettings

KEEPALIVE_IDLE_SECONDS = 30
KEEPALIVE_INTERVAL_SECONDS = 10
KEEPALIVE_COUNT = 3
# RFC 5482: how long sent data may stay unacknowledged before the kernel gives the connection up.
USER_TIMEOUT_MILLISECONDS = 30_000

# asyncpg reads these only from a DSN, not as arguments.
_DSN_ONLY = frozenset(
    {
        "sslcert",
        "sslkey",
        "sslrootcert",
        "sslcrl",
        "sslpassword",
        "sslnegotiation",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "service",
        "servicefile",
    }
)
_NUMBERS: dict[str, type[int | float]] = {
    "timeout": float,
    "command_timeout": float,
    "statement_cache_size": int,
    "max_cached_statement_lifetime": int,
    "max_cacheable_statement_size": int,
}
# libpq options that mean nothing to asyncpg: it always speaks UTF-8, and keepalives are set on its socket.
_LIBPQ_ONLY = frozenset(
    {
        "client_encoding",
        "gssencmode",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "tcp_user_timeout",
        "sslcompression",
        "fallback_application_name",
    }
)
_ASYNCPG_ARGUMENTS = frozenset(
    {
        "direct_tls",
        "connection_class",
        "record_class",
        "max_cached_statement_lifetime",
        "max_cacheable_statement_size",
        "prepared_statement_cache_size",
        "prepared_statement_name_func",
    }
)


def connect_arguments(
    url: URL, driver: str, settings: DatabaseSettings, given: Mapping[str, Any]
) -> tuple[URL, dict[str, Any]]:
    """The URL left to SQLAlchemy and the arguments for the driver; what the caller gave wins.

    Raises:
        ConfigurationError: An argument means nothing to this driver.
    """
    if driver == "asyncpg":
        return _for_asyncpg(url, settings, given)
    return url, _for_libpq(driver, settings, given)


def _server_settings(settings: DatabaseSettings) -> dict[str, str]:
    values = {
        "application_name": settings.application_name,
        # Compiling costs more than it saves for short statements, and spoils planning-time predictability.
        "jit": "off",
        "TimeZone": "UTC",
    }
    if settings.statement_timeout is not None:
        values["statement_timeout"] = str(round(settings.statement_timeout * 1000))
    return values


def _merged(defaults: Mapping[str, str], given: Mapping[str, Any] | None) -> dict[str, str]:
    """Given settings over defaults, whatever their case; a value of None takes the default away."""
    given = given or {}
    named = {name.lower() for name in given}
    kept = {name: value for name, value in defaults.items() if name.lower() not in named}
    return kept | {name: str(value) for name, value in given.items() if value is not None}


def _for_asyncpg(
    url: URL, settings: DatabaseSettings, given: Mapping[str, Any]
) -> tuple[URL, dict[str, Any]]:
    arguments: dict[str, Any] = {"timeout": settings.connect_timeout}
    query: dict[str, Any] = dict(url.query)
    if query.pop("channel_binding", "prefer") == "require":
        raise ConfigurationError(
            "channel_binding=require is not supported by asyncpg. Use a postgresql+psycopg:// URL, or leave "
            "channel_binding out and rely on sslmode=verify-full."
        )
    from_options = _parsed_options(query.pop("options", ""))
    dsn = {name: query.pop(name) for name in _DSN_ONLY & query.keys()}
    if dsn:
        arguments["dsn"] = f"postgresql://?{urlencode(dsn, doseq=True)}"
    for name in _LIBPQ_ONLY & query.keys():
        del query[name]
    for name, number in _NUMBERS.items():
        if name in query:
            arguments[name] = number(query.pop(name))
    arguments |= given
    arguments["server_settings"] = _merged(
        _merged(_server_settings(settings), from_options), given.get("server_settings")
    )
    return url.set(query=query), arguments


def _parsed_options(options: str) -> dict[str, str]:
    """``-c name=value`` pairs of libpq's ``options``."""
    words = shlex.split(options)
    pairs = [word.removeprefix("-c").removeprefix("--") for word in words if word != "-c"]
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs) if name}


def _for_libpq(driver: str, settings: DatabaseSettings, given: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(given)
    foreign = sorted(_ASYNCPG_ARGUMENTS & given.keys())
    if foreign:
        raise ConfigurationError(
            f"connect_args {', '.join(foreign)} belong to asyncpg and mean nothing to {driver}. Leave them out, or "
            f"use a postgresql+asyncpg:// URL."
        )
    defaults = _server_settings(settings)
    if (seconds := given.pop("command_timeout", None)) is not None:
        defaults["statement_timeout"] = str(round(seconds * 1000))
    server = _merged(defaults, given.pop("server_settings", None))
    arguments: dict[str, Any] = {
        "connect_timeout": max(2, round(settings.connect_timeout)),
        "keepalives_idle": KEEPALIVE_IDLE_SECONDS,
        "keepalives_interval": KEEPALIVE_INTERVAL_SECONDS,
        "keepalives_count": KEEPALIVE_COUNT,
        "tcp_user_timeout": USER_TIMEOUT_MILLISECONDS,
    }
    if (seconds := given.pop("timeout", None)) is not None:
        arguments["connect_timeout"] = max(2, round(seconds))
    if (ssl := given.pop("ssl", None)) is not None:
        if not isinstance(ssl, str):
            raise ConfigurationError(f"{driver} takes sslmode='require' (a word), not an ssl object.")
        arguments["sslmode"] = ssl
    if (size := given.pop("statement_cache_size", None)) is not None and driver == "psycopg" and size == 0:
        arguments["prepare_threshold"] = None
    if "application_name" in server:
        arguments["application_name"] = server.pop("application_name")
    own = " ".join(f"-c {name}={_escaped(value)}" for name, value in server.items())
    arguments["options"] = f"{own} {given.pop('options', '')}".strip()
    return arguments | given


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")
