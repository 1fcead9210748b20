"""A database in memory for the length of a block: an ordinary session on SQLite, with the tables made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dotmac.database.engine import create_async_engine, create_engine, create_session_factory
from dotmac.database.models import Base
from dotmac.database.testing._memory_tables import create_tables, tables_of, translate_schemas

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from sqlalchemy import Engine, MetaData, Table
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
    from sqlalchemy.orm import Session


class InMemoryDatabase:
    """A new, empty SQLite database with the tables made; gone at the end of the block.

    ``async with`` gives an ``AsyncSession`` (needs the ``sqlite`` extra), ``with`` a ``Session``. What is true of SQLite is
    true of it: there are no arrays, and one session at a time. For what depends on PostgreSQL use the
    ``dotmac_session`` fixture.

    Args:
        metadata: Make all tables of this; by default ``Base.metadata``.
        models: Make only the tables of these models, and those they refer to.

    Raises:
        ConfigurationError: On entering: SQLite cannot have one of the tables. Pass ``models``.

    Example::

        async with InMemoryDatabase() as session:
            users = create_async_repository(session, User)
            user = await users.create({"name": "Test"})
    """

    def __init__(
        self, metadata: MetaData | None = None, *, models: Sequence[type[Any]] | None = None
    ) -> None:
        if metadata is not None and models is not None:
            raise TypeError("Pass metadata or models, not both.")
        self._metadata = metadata
        self._models = models
        self._engine: Engine | None = None
        self._async_engine: AsyncEngine | None = None
        self._session: Session | None = None
        self._async_session: AsyncSession | None = None

    def _tables(self) -> list[Table]:
        if self._models is not None:
            return tables_of(self._models)
        return list((self._metadata if self._metadata is not None else Base.metadata).sorted_tables)

    def _forbid_reentry(self) -> None:
        if self._engine is not None or self._async_engine is not None:
            raise RuntimeError("This InMemoryDatabase is open already; make another one.")

    def __enter__(self) -> Session:
        self._forbid_reentry()
        tables = self._tables()
        self._engine = create_engine("sqlite://")
        try:
            with self._engine.begin() as connection:
                create_tables(connection, tables)
        except BaseException:
            self._close()
            raise
        engine = self._engine.execution_options(schema_translate_map=translate_schemas(tables))
        self._session = create_session_factory(engine)()
        return self._session

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        session, engine = self._session, self._engine
        self._session = self._engine = None
        if session is not None:
            session.close()
        if engine is not None:
            engine.dispose()

    async def __aenter__(self) -> AsyncSession:
        self._forbid_reentry()
        tables = self._tables()
        self._async_engine = create_async_engine("sqlite+aiosqlite://")
        try:
            async with self._async_engine.begin() as connection:
                await connection.run_sync(create_tables, tables)
        except BaseException:
            await self._close_async()
            raise
        engine = self._async_engine.execution_options(schema_translate_map=translate_schemas(tables))
        self._async_session = create_session_factory(engine)()
        return self._async_session

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close_async()

    async def _close_async(self) -> None:
        session, engine = self._async_session, self._async_engine
        self._async_session = self._async_engine = None
        if session is not None:
            await session.close()
        if engine is not None:
            await engine.dispose()
