"""The database behind mocks: SQLite in memory, and one session on it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import event
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet

from dotmac.database.engine import create_engine
from dotmac.database.tenancy import SESSION_KEY, switch
from dotmac.database.testing._memory_tables import create_tables, tables_of, translate_schemas

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine, Table

    from dotmac.database.context import RequestContext

R = TypeVar("R")


class MockDatabase:
    """One database in memory and one session on it, shared by the mocks that are beside each other.

    Attributes:
        session: The session.
        async_session: The same session, to be awaited; None for blocking mocks.
    """

    def __init__(self, *, is_async: bool) -> None:
        self._engine = create_engine("sqlite://")
        event.listen(self._engine, "connect", _fold_all_letters)
        self.async_session: AsyncSession | None = None
        if is_async:
            event.listen(self._engine, "before_cursor_execute", _awaited_only)
            self.async_session = _AwaitedSession(expire_on_commit=False, autoflush=False)
            self.session = self.async_session.sync_session
        else:
            self.session = Session(expire_on_commit=False, autoflush=False)
        self.session.bind = self._engine
        self._tables: dict[Table, None] = {}
        self.close = weakref.finalize(self, _close, self.session, self._engine)

    def add(self, model: type[Any]) -> None:
        """Make the model's tables, and those they refer to. Commits: a table must outlive a rollback.

        Raises:
            ConfigurationError: SQLite cannot have one of them.
        """
        tables = tables_of([model])
        if self._tables.keys() >= set(tables):
            return
        self._tables.update(dict.fromkeys(tables))
        self.session.commit()
        with self._engine.begin() as connection:
            create_tables(connection, self._tables)
        self.session.bind = self._engine.execution_options(
            schema_translate_map=translate_schemas(self._tables)
        )

    def become(self, context: RequestContext) -> RequestContext:
        """Have the session serve ``context``; the entities of another one leave it."""
        session, bound = self.session, self.session.info.get(SESSION_KEY)
        if bound is not None and (bound.tenant_id, bound.is_unscoped) == (
            context.tenant_id,
            context.is_unscoped,
        ):
            session.info[SESSION_KEY] = context
        else:
            switch(session, context)
        return context

    def serving(self, context: RequestContext) -> MockDatabase:
        """This database, its session serving ``context``."""
        self.become(context)
        return self


class _AwaitedSession(AsyncSession):
    """An ``AsyncSession`` whose driver blocks: there is nothing asynchronous to close about a result."""

    async def execute(self, statement: Any, params: Any = None, **options: Any) -> Any:
        # Rows, and what loads with them, are fetched before the result is handed out, as AsyncSession does.
        options["execution_options"] = {**options.get("execution_options", {}), "prebuffer_rows": True}
        return await greenlet_spawn(self.sync_session.execute, statement, params, **options)


def _close(session: Session, engine: Engine) -> None:
    session.close()
    engine.dispose()


def at_once(work: Callable[[], R]) -> R:
    """The result of blocking ``work`` on a guarded session, outside any event loop."""
    running = greenlet_spawn(work)
    try:
        running.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return] # what work returned
    raise AssertionError("a private database has nothing to wait for")


def _awaited_only(*_: Any) -> None:
    """What a driver for asyncio does: refuse I/O, such as a lazy load, that nobody awaits."""
    if not in_greenlet():
        raise MissingGreenlet(
            "This would be I/O outside await: a relationship or column that is not loaded was touched. "
            "Load it with the row: load=['relation']."
        )


def _fold_all_letters(connection: Any, _entry: object) -> None:
    """SQLite folds the case of ASCII alone."""
    connection.create_function("lower", 1, lambda text: _folded(text, str.lower), deterministic=True)
    connection.create_function("upper", 1, lambda text: _folded(text, str.upper), deterministic=True)


def _folded(text: Any, fold: Callable[[str], str]) -> Any:
    return None if text is None else fold(str(text))
