"""All of an ``env.py`` in one call: `run_migrations`, for async and blocking drivers and for ``--sql``."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from logging.config import fileConfig
from typing import TYPE_CHECKING, Any, Final

from alembic import context
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateSchema

from dotmac.database.alembic import _compare, _filters, _render, _security
from dotmac.database.alembic._engines import SQLITE_BEGIN, with_connection
from dotmac.database.alembic._hints import add_hint
from dotmac.database.alembic._locks import (
    bounded_lock_waits,
    migrator_lock,
    patient_autocommit_blocks,
    postgres_interval,
)
from dotmac.database.alembic._metadata import MetadataSource, collect_metadata
from dotmac.database.alembic._url import CONNECTION, migration_url

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from alembic.config import Config
    from sqlalchemy import URL

    from dotmac.database.settings import DatabaseSettings

_LOCK_TIMEOUT: Final = timedelta(seconds=5)
_MIGRATOR_WAIT: Final = timedelta(minutes=5)


def run_migrations(
    target_metadata: MetadataSource | Iterable[MetadataSource] | None = None,
    *,
    settings: DatabaseSettings | None = None,
    url: str | URL | None = None,
    include_object: Callable[..., bool] = _filters.include_object,
    include_schemas: bool | Collection[str] = False,
    version_table: str = "alembic_version",
    version_table_schema: str | None = None,
    compare_type: bool | Callable[..., bool | None] = True,
    compare_server_default: bool | Callable[..., bool | None] = True,
    row_level_security: bool = False,
    render_item: Callable[..., Any] = _render.render_item,
    render_as_batch: bool | None = None,
    transaction_per_migration: bool | None = None,
    lock_timeout: timedelta | None = _LOCK_TIMEOUT,
    migrator_wait: timedelta | None = _MIGRATOR_WAIT,
    engine_options: Mapping[str, Any] | None = None,
    configure_logging: bool = True,
    **options: Any,
) -> None:
    """Run whatever Alembic command this ``env.py`` was loaded for. Blocks; works with or without a running loop.

    The connection is ``config.attributes["connection"]`` if a caller put one there (a blocking ``Connection``; if it is
    in a transaction, everything happens in that transaction and the caller commits). Otherwise one is made, without a
    pool, for the URL found by `migration_url`, and closed.

    Args:
        target_metadata: What autogenerate compares: a declarative base, ``MetaData``, ``registry``, ``SQLModel``, or
            several of them.
        settings: Where to find the URL, instead of the environment.
        url: The URL itself. Still gives way to ``alembic -x url=…`` and to the `upgrade` family's ``url``.
        include_object: Alembic's hook; ours leaves alone system schemas, extensions' tables and views.
        include_schemas: True compares every schema the models mention; names compare those; False the default schema.
        version_table: Table that holds the current revision.
        version_table_schema: Its schema; created if it is missing.
        compare_type: Autogenerate notices changed column types; True also knows types that a database spells otherwise.
        compare_server_default: Autogenerate notices changed server defaults; True as for types.
        row_level_security: Autogenerate notices tenants' tables whose policies are missing or differ, on PostgreSQL.
        render_item: Alembic's hook; ours writes plain SQLAlchemy types into revisions.
        render_as_batch: Write ALTERs as batch operations. Default: on SQLite, which needs them.
        transaction_per_migration: Commit after each revision, so that a failed one keeps those before it and autocommit
            blocks work. Default: True, except on SQLite, where one transaction is the whole run and the lock.
        lock_timeout: How long a statement may wait for a lock on PostgreSQL and MySQL; None: the server's setting.
        migrator_wait: How long to wait for another process that migrates this database; None: do not look.
        engine_options: More arguments for ``create_engine`` (``connect_args`` for TLS and the like).
        configure_logging: Apply the logging sections of the ini file when run from the command line.
        **options: Anything else for Alembic's ``context.configure``.

    Raises:
        ConfigurationError: No URL was found, or it cannot be used.
        MigrationLockedError: Another process was migrating for all of ``migrator_wait``; nothing was changed.
        TypeError: ``target_metadata`` has no metadata.
    """
    metadata = collect_metadata(target_metadata)
    if configure_logging:
        _configure_logging(context.config)
    run = _Run(
        include_schemas=include_schemas,
        render_as_batch=render_as_batch,
        transaction_per_migration=transaction_per_migration,
        lock_timeout=lock_timeout,
        migrator_wait=migrator_wait,
        options={
            "target_metadata": metadata or None,
            "include_object": include_object,
            "include_schemas": bool(include_schemas),
            "version_table": version_table,
            "version_table_schema": version_table_schema,
            "compare_type": _compare.compare_type if compare_type is True else compare_type,
            "compare_server_default": (
                _compare.compare_server_default if compare_server_default is True else compare_server_default
            ),
            "render_item": render_item,
            _security.OPTION: row_level_security,
        }
        | options,
    )
    connection = context.config.attributes.get(CONNECTION)
    if context.is_offline_mode():
        run.offline(migration_url(context.config, url=url, settings=settings))
    elif connection is not None:
        run.online(_blocking(connection), is_ours=False)
    else:
        found = migration_url(context.config, url=url, settings=settings)
        with_connection(found, run.online, options=engine_options or {})


def _configure_logging(config: Config) -> None:
    # Only for the alembic command: a program that calls us has logging of its own.
    if config.cmd_opts is not None and config.config_file_name and config.file_config.has_section("loggers"):
        fileConfig(config.config_file_name, disable_existing_loggers=False)


def _blocking(connection: object) -> Connection:
    if isinstance(connection, Connection):
        return connection
    raise TypeError(
        f'config.attributes["connection"] must be a blocking sqlalchemy Connection, not {type(connection).__qualname__}. '
        f"From an AsyncConnection: await connection.run_sync(lambda blocking: upgrade(…, connection=blocking))."
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """One run's choices, applied to a connection or to a URL alone."""

    include_schemas: bool | Collection[str]
    render_as_batch: bool | None
    transaction_per_migration: bool | None
    lock_timeout: timedelta | None
    migrator_wait: timedelta | None
    options: dict[str, Any] = field(repr=False)

    def offline(self, url: URL) -> None:
        """Write SQL instead of running it."""
        dialect = url.get_backend_name()
        context.configure(
            url=url,
            literal_binds=True,
            dialect_opts={"paramstyle": "named"},
            **self._per_dialect(dialect, is_ours=True),
            **self.options,
        )
        patient_autocommit_blocks(context.get_context(), self.lock_timeout)
        with context.begin_transaction():
            if self.lock_timeout is not None and dialect == "postgresql":
                context.execute(f"SET lock_timeout = '{postgres_interval(self.lock_timeout)}'")
            context.run_migrations()

    def online(self, connection: Connection, *, is_ours: bool = True) -> None:
        """Run on ``connection``; ``is_ours`` if nobody else uses it."""
        chosen: dict[str, Any] = {"include_name": self._name_filter(connection)} | self.options
        context.configure(
            connection=connection, **self._per_dialect(connection.dialect.name, is_ours=is_ours), **chosen
        )
        migration = context.get_context()
        patient_autocommit_blocks(migration, self.lock_timeout)
        # Alembic names a destination for the commands that change the database (upgrade, downgrade, stamp).
        writes = "destination_rev" in migration.opts
        try:
            with ExitStack() as stack:
                if writes:
                    self._exclude_others(connection, stack, is_ours=is_ours)
                    stack.enter_context(bounded_lock_waits(connection, self.lock_timeout))
                    self._ensure_version_schema(connection)
                with context.begin_transaction():
                    context.run_migrations()
        except DBAPIError as error:
            add_hint(error)
            raise

    def _per_dialect(self, dialect: str, *, is_ours: bool) -> dict[str, Any]:
        is_sqlite = dialect == "sqlite"
        per_migration = self.transaction_per_migration
        chosen: dict[str, Any] = {
            "render_as_batch": is_sqlite if self.render_as_batch is None else self.render_as_batch,
            "transaction_per_migration": not is_sqlite if per_migration is None else per_migration,
        }
        if is_sqlite and is_ours:
            chosen["transactional_ddl"] = True
        return chosen

    def _name_filter(self, connection: Connection) -> Callable[..., bool]:
        names = self.include_schemas
        return _filters.name_filter(
            self.options["target_metadata"] or (),
            schemas=None if isinstance(names, bool) else names,
            foreign=cache(lambda: _filters.foreign_tables(connection)),
        )

    def _exclude_others(self, connection: Connection, stack: ExitStack, *, is_ours: bool) -> None:
        if connection.dialect.name == "sqlite":
            if is_ours:
                connection.execution_options(**{SQLITE_BEGIN: "BEGIN IMMEDIATE"})
            return
        if self.migrator_wait is None:
            return
        holder = connection
        if is_ours:
            # A connection of its own: revisions commit, switch to autocommit and fail on ours.
            holder = stack.enter_context(connection.engine.connect())
            holder.execution_options(isolation_level="AUTOCOMMIT")
        name = f"{self.options['version_table_schema'] or ''}.{self.options['version_table']}"
        stack.enter_context(migrator_lock(holder, name=name, wait=self.migrator_wait))

    def _ensure_version_schema(self, connection: Connection) -> None:
        schema = self.options["version_table_schema"]
        if schema is None or connection.dialect.name != "postgresql":
            return
        external = connection.in_transaction()
        if not inspect(connection).has_schema(schema):
            connection.execute(CreateSchema(schema))
        if not external:
            connection.commit()
