"""Sessions and the one rule of when they commit: a repository flushes, the block that opened the session commits."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, sessionmaker

from dotmac.database.context import current_context
from dotmac.database.errors import ConfigurationError
from dotmac.database.tenancy import PLACEMENT_KEY, ambient_block

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator

    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

    from dotmac.database.tenancy import Placement


class BoundSession(Session):
    """A session that remembers, under ``info["dotmac_context"]``, on whose behalf it was opened."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.info.setdefault("dotmac_context", current_context())


AnySession = TypeVar("AnySession", bound="Session | AsyncSession")


def placed_session(session: AnySession, placement: Placement) -> AnySession:
    """``session``, whose transactions begin where the tenant's rows live."""
    session.info[PLACEMENT_KEY] = placement
    return session


def unknown_database(name: str, known: Iterable[str]) -> ConfigurationError:
    """What is said when a tenant's rows live on a database that nobody told us of."""
    names = ", ".join(sorted(known)) or "none"
    return ConfigurationError(
        f"The tenant's rows live on the database {name!r}, which this one does not know. Pass "
        f"databases={{{name!r}: …}}. Known: {names}."
    )


@overload
def create_session_factory(engine: Engine, **arguments: Any) -> sessionmaker[Session]: ...


@overload
def create_session_factory(engine: AsyncEngine, **arguments: Any) -> async_sessionmaker[AsyncSession]: ...


def create_session_factory(
    engine: Engine | AsyncEngine, **arguments: Any
) -> sessionmaker[Session] | async_sessionmaker[AsyncSession]:
    """A factory of sessions for ``engine``: ``async_sessionmaker`` for an asyncio engine, else ``sessionmaker``.

    Objects stay readable after commit (``expire_on_commit=False``) and flushing is explicit (``autoflush=False``):
    a query does not see objects that were only added. ``arguments`` override both.
    """
    options: dict[str, Any] = {"expire_on_commit": False, "autoflush": False, **arguments}
    if isinstance(engine, Engine):
        return sessionmaker(engine, **{"class_": BoundSession, **options})
    from sqlalchemy.ext.asyncio import async_sessionmaker  # noqa: PLC0415 - slow, and only asyncio needs it

    return async_sessionmaker(engine, **{"sync_session_class": BoundSession, **options})


@asynccontextmanager
async def get_session(session_factory: Callable[[], AsyncSession]) -> AsyncIterator[AsyncSession]:
    """A session that is closed at the end and not committed: what the block did not commit is rolled back."""
    async with session_factory() as session:
        yield session


@asynccontextmanager
async def with_async_session(session_factory: Callable[[], AsyncSession]) -> AsyncIterator[AsyncSession]:
    """A session that commits when the block ends well and rolls back when it does not, cancellation included.

    The block may also commit by itself, several times. An error of COMMIT is raised as it is, after the rollback.
    """
    async with session_factory() as session:
        with ambient_block(session):
            try:
                yield session
                await session.commit()
            except BaseException:
                await _to_the_end(session.rollback())
                raise


@contextmanager
def with_session(session_factory: Callable[[], Session]) -> Iterator[Session]:
    """Same as `with_async_session`, blocking."""
    with session_factory() as session:
        try:
            yield session
            session.commit()
        except BaseException:
            session.rollback()
            raise


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await ``work`` so that a second cancellation does not cut it short."""
    await asyncio.shield(asyncio.ensure_future(work))
