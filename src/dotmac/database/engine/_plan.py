"""Decide everything about an engine before one is made: settings and arguments in, one plan out, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import pool as pools

from dotmac.database._urls import async_url, sync_url
from dotmac.database.engine import _mysql, _postgresql, _sqlite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import URL

    from dotmac.database.settings import DatabaseSettings

_POOL_ARGUMENTS = frozenset({"pool_size", "max_overflow", "pool_timeout", "pool_recycle", "pool_use_lifo"})


@dataclass(frozen=True, slots=True)
class Plan:
    """How one engine is made and watched.

    Attributes:
        url: For the driver that is used, query parameters already translated.
        arguments: Keyword arguments for SQLAlchemy.
        checks_liveness: Whether idle connections are pinged before use.
        recycle_seconds: The longest life of a connection; -1 for no limit.
        connect_timeout: Seconds one connection attempt may take.
    """

    url: URL
    is_async: bool
    arguments: dict[str, Any]
    checks_liveness: bool
    recycle_seconds: float
    connect_timeout: float
    sqlite: _sqlite.SqlitePlan | None = field(default=None)

    @property
    def backend(self) -> str:
        """``postgresql``, ``mysql``, ``sqlite`` or another SQLAlchemy dialect."""
        return self.url.get_backend_name()

    @property
    def driver(self) -> str:
        """The driver's name as in the URL."""
        return self.url.get_driver_name()


def plan_engine(settings: DatabaseSettings, overrides: Mapping[str, Any], *, is_async: bool) -> Plan:
    """The plan for ``settings``; an override beats the setting of its name, and ``connect_args`` are merged."""
    url = async_url(settings.address) if is_async else sync_url(settings.address)
    given = dict(overrides)
    connect_args = dict(given.pop("connect_args", None) or {})
    pre_ping = given.pop("pool_pre_ping", None)
    backend, driver = url.get_backend_name(), url.get_driver_name()
    sqlite_plan: _sqlite.SqlitePlan | None = None
    if backend == "postgresql":
        url, connect_args = _postgresql.connect_arguments(url, driver, settings, connect_args)
    elif backend in {"mysql", "mariadb"}:
        connect_args = _mysql.connect_arguments(url, driver, settings, connect_args)
    elif backend == "sqlite":
        sqlite_plan = _sqlite.plan(url)
        connect_args = _sqlite.connect_arguments(sqlite_plan, connect_args)
    arguments = _pool_arguments(settings, given, sqlite_plan, is_async=is_async)
    recycle = arguments.get("pool_recycle", -1)
    arguments |= {
        "echo": settings.echo,
        "echo_pool": settings.echo_pool,
        # Row data stays out of logs and error messages unless somebody asks for it.
        "hide_parameters": True,
        **given,
        "connect_args": connect_args,
    }
    checks = settings.pool_pre_ping if pre_ping is None else bool(pre_ping)
    return Plan(
        url=url,
        is_async=is_async,
        arguments=arguments,
        checks_liveness=checks and backend != "sqlite",
        recycle_seconds=recycle,
        connect_timeout=settings.connect_timeout,
        sqlite=sqlite_plan,
    )


def _pool_arguments(
    settings: DatabaseSettings,
    given: dict[str, Any],
    sqlite_plan: _sqlite.SqlitePlan | None,
    *,
    is_async: bool,
) -> dict[str, Any]:
    given_pool = {name: given.pop(name) for name in _POOL_ARGUMENTS & given.keys()}
    poolclass = given.get("poolclass")
    if "pool" in given or (poolclass is not None and not issubclass(poolclass, pools.QueuePool)):
        return given_pool
    defaults: dict[str, Any] = {
        "poolclass": pools.AsyncAdaptedQueuePool if is_async else pools.QueuePool,
        "pool_size": settings.pool_size,
        "max_overflow": settings.max_overflow,
        "pool_timeout": settings.pool_timeout,
        "pool_recycle": settings.pool_recycle,
        # The last connection used is the next one handed out: idle ones age out, and the warm one needs no ping.
        "pool_use_lifo": True,
    }
    if sqlite_plan is not None:
        defaults["pool_recycle"] = -1
        if sqlite_plan.is_memory:
            defaults |= _sqlite.memory_pool(is_async=is_async)
            given_pool = {name: value for name, value in given_pool.items() if name == "pool_timeout"}
    return defaults | given_pool
