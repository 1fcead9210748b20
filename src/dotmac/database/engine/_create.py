"""Make engines: settings and arguments go into a plan, the plan into SQLAlchemy, and the watchers onto the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import sqlalchemy
from sqlalchemy import event

from dotmac.database.engine import _fused_begin, _liveness, _read_only, _redaction, _sqlite
from dotmac.database.engine._connect import careful_connector
from dotmac.database.engine._plan import Plan, plan_engine
from dotmac.database.errors import ConfigurationError
from dotmac.database.tenancy import raise_quota_errors

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from dotmac.database.settings import DatabaseSettings

    Source = DatabaseSettings | URL | str | None


def create_async_engine(url: Source = None, **arguments: Any) -> AsyncEngine:
    """An asyncio engine that connects safely, on any of the supported drivers.

    Args:
        url: A URL, `DatabaseSettings`, or nothing: then the environment says. A URL without a driver
            (``postgresql://``) gets the first asyncio driver installed.
        **arguments: As for ``sqlalchemy.ext.asyncio.create_async_engine``. They override the settings, which come
            from the environment where ``url`` is not a `DatabaseSettings`. ``connect_args`` are merged with ours.

    Example:
        >>> engine = create_async_engine("sqlite+aiosqlite:///:memory:")
        >>> engine.dialect.driver
        'aiosqlite'

    Raises:
        ConfigurationError: The URL, a setting or an argument cannot work, or no driver is installed.
    """
    from sqlalchemy.ext import asyncio as sqlalchemy_asyncio  # noqa: PLC0415 - slow, and not needed for blocking engines

    plan = plan_engine(settings_from(url), arguments, is_async=True)
    engine_arguments = dict(plan.arguments)
    connect_args = engine_arguments["connect_args"]
    opener = engine_arguments.pop("async_creator", None)
    connect_args["async_creator_fn"] = careful_connector(
        plan.driver, plan.connect_timeout, None if opener is None else lambda *_, **__: opener()
    )
    engine: AsyncEngine = _made(sqlalchemy_asyncio.create_async_engine, plan, engine_arguments)
    _watch(engine.sync_engine, plan)
    return engine


@overload
def create_engine(url: DatabaseSettings, **arguments: Any) -> AsyncEngine: ...


@overload
def create_engine(url: URL | str | None = None, **arguments: Any) -> Engine: ...


def create_engine(url: Source = None, **arguments: Any) -> Engine | AsyncEngine:
    """From `DatabaseSettings` an asyncio engine; from a URL, or from the environment, a blocking one.

    A URL behaves as with ``sqlalchemy.create_engine``; one that names an asyncio driver
    (``postgresql+asyncpg://``) gets its blocking twin. See `create_async_engine` for the arguments.

    Raises:
        ConfigurationError: The URL, a setting or an argument cannot work, or no driver is installed.
    """
    if url is not None and not isinstance(url, str | sqlalchemy.URL):
        return create_async_engine(url, **arguments)
    return create_sync_engine(url, **arguments)


def create_sync_engine(url: Source = None, **arguments: Any) -> Engine:
    """A blocking engine, also from `DatabaseSettings`. Otherwise as `create_async_engine`."""
    plan = plan_engine(settings_from(url), arguments, is_async=False)
    engine: Engine = _made(sqlalchemy.create_engine, plan, plan.arguments)
    _watch(engine, plan)
    return engine


def settings_from(source: Source) -> DatabaseSettings:
    """Settings for whatever was passed as a source; the environment fills what it leaves out."""
    from dotmac.database.settings import DatabaseSettings  # noqa: PLC0415 - pydantic is not needed to import engines

    if isinstance(source, DatabaseSettings):
        return source
    if source is None:
        return DatabaseSettings()
    if isinstance(source, str | sqlalchemy.URL):
        return DatabaseSettings(url=source)
    raise TypeError(f"Expected a URL or DatabaseSettings, not {type(source).__name__}.")


def _made(make: Any, plan: Plan, arguments: dict[str, Any]) -> Any:
    try:
        return make(plan.url, **arguments)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"The driver {plan.driver!r} is not installed (no module {error.name!r}). Install it, for example with an "
            f"extra: pip install 'dotmac-database[all]'."
        ) from error


def _watch(engine: Engine, plan: Plan) -> None:
    if plan.arguments["hide_parameters"]:
        _redaction.install(engine)
    if plan.backend == "postgresql":
        raise_quota_errors(engine)
    if plan.backend in {"mysql", "mariadb", "sqlite"}:
        _read_only.install(engine)
    if plan.sqlite is not None:
        _sqlite.install(engine, plan.sqlite, plan.arguments.get("isolation_level"))
    if plan.driver in {"asyncpg", "psycopg"}:
        _fused_begin.install(engine, blocking_psycopg=plan.driver == "psycopg" and not plan.is_async)
    if plan.driver == "pymysql":
        _bound_handshake(engine, plan.connect_timeout)
    if plan.checks_liveness or plan.recycle_seconds > 0:
        _liveness.install(
            engine,
            driver=plan.driver,
            is_async=plan.is_async,
            checks=plan.checks_liveness,
            recycle_seconds=plan.recycle_seconds,
        )


def _bound_handshake(engine: Engine, timeout_seconds: float) -> None:
    """PyMySQL's connect timeout ends with the TCP connection; a server that then says nothing would hang it."""

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _entry: Any, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        wanted = keywords.get("read_timeout")
        connection = dialect.connect(*arguments, **{**keywords, "read_timeout": timeout_seconds})
        connection._read_timeout = wanted  # noqa: SLF001
        return connection
