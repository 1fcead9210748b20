"""Where an error came from, read off its traceback: out of the database's drivers, and out of a COMMIT."""

from __future__ import annotations

import asyncio
import sys
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_DATABASE_PACKAGES = frozenset(
    {
        "sqlalchemy",
        "asyncpg",
        "psycopg",
        "psycopg_binary",
        "psycopg_c",
        "asyncmy",
        "aiomysql",
        "pymysql",
        "MySQLdb",
        "aiosqlite",
    }
)
_OUR_ENGINES = "dotmac.database.engine"
# Only these send COMMIT: SQLAlchemy's Connection, and the drivers' own when they are used without it.
_COMMITTING = frozenset(
    {
        ("sqlalchemy.engine.base", "_commit_impl"),
        ("sqlalchemy.engine.base", "_commit_twophase_impl"),
        ("asyncpg.transaction", "__commit"),
        ("psycopg.connection", "commit"),
        ("psycopg.connection_async", "commit"),
        ("psycopg.transaction", "_commit_gen"),
        ("pymysql.connections", "commit"),
        ("aiomysql.connection", "commit"),
        ("asyncmy.connection", "commit"),
        ("aiosqlite.core", "commit"),
    }
)
_CONNECTING = ("sqlalchemy.pool.base", "__connect")


def during_commit(error: BaseException) -> bool:
    """True if ``error``, or what it was raised from, came out of the sending of a COMMIT."""
    return any(frame in _COMMITTING for part in with_causes(error) for frame in _frames(part))


def while_connecting(error: BaseException) -> bool:
    """True if ``error`` came while SQLAlchemy's pool opened a connection: nothing of the caller's was sent."""
    return any(frame == _CONNECTING for part in with_causes(error) for frame in _frames(part))


def from_the_database(error: BaseException, *, or_own: bool = False) -> bool:
    """True if the innermost code outside the standard library was a driver's, SQLAlchemy's or our engines'.

    An error that was never raised has no traceback; who asks about one means it to be the database's.

    Args:
        error: What was raised.
        or_own: Also true if the application raised it by a statement of its own, not through a library.
    """
    parts = list(with_causes(error))
    if all(part.__traceback__ is None for part in parts):
        return True
    if any(_is_database_code(_innermost(part)) for part in parts):
        return True
    return (
        or_own and not isinstance(parts[-1], asyncio.CancelledError) and _is_raised_by_application(parts[-1])
    )


def with_causes(error: BaseException) -> Iterator[BaseException]:
    """``error`` and what it was raised from, SQLAlchemy's ``orig`` first."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = getattr(at, "orig", None) or at.__cause__ or _cancellation_behind(at)


def with_contexts(error: BaseException) -> Iterator[BaseException]:
    """``error``, and whatever was being handled when it was raised."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        at = waiting.pop()
        if id(at) in seen:
            continue
        seen.add(id(at))
        yield at
        waiting += [behind for behind in (at.__cause__, at.__context__) if behind is not None]


def _cancellation_behind(error: BaseException) -> BaseException | None:
    """What `asyncio.timeout` cancelled: in early releases of Python 3.11 its TimeoutError does not name it as its cause."""
    behind = error.__context__
    return behind if isinstance(error, TimeoutError) and isinstance(behind, asyncio.CancelledError) else None


def _frames(error: BaseException) -> Iterator[tuple[str, str]]:
    for frame, _line in traceback.walk_tb(error.__traceback__):
        yield str(frame.f_globals.get("__name__", "")), frame.f_code.co_name


def _innermost(error: BaseException) -> str:
    found = ""
    for module, _function in _frames(error):
        if module.partition(".")[0] not in sys.stdlib_module_names:
            found = module
    return found


def _is_raised_by_application(error: BaseException) -> bool:
    frames = [frame for frame, _line in traceback.walk_tb(error.__traceback__)]
    if not frames:
        return False
    package = str(frames[-1].f_globals.get("__name__", "")).partition(".")[0]
    is_installed = "-packages" in frames[-1].f_code.co_filename  # site-packages, dist-packages
    return package not in sys.stdlib_module_names and not is_installed


def _is_database_code(module: str) -> bool:
    return module.partition(".")[0] in _DATABASE_PACKAGES or module.startswith(_OUR_ENGINES)
