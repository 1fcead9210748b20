"""Wait at start-up until the database answers, and tell a server that is not up yet from one that never will be."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import pool, text
from sqlalchemy.engine import Engine

from dotmac.database.engine._create import create_async_engine, create_sync_engine, settings_from
from dotmac.database.errors import ConfigurationError, DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from dotmac.database.engine._create import Source

_logger = logging.getLogger("dotmac.database.engine")

_LONGEST_PAUSE_SECONDS = 10.0
_LONGEST_ATTEMPT_SECONDS = 5.0
_HOPELESS_STATES = {
    "28P01": "the password is wrong; check the user and password in DATABASE_URL",
    "28000": "the server refuses this user; check the user in DATABASE_URL and the server's pg_hba.conf",
    "3D000": "the database does not exist; create it (createdb), or check its name in DATABASE_URL",
    "42501": "the user may not connect to this database; grant it CONNECT",
}
_HOPELESS_MYSQL = {
    1044: "the user may not use this database; grant it the privileges",
    1045: "the user or password is wrong; check them in DATABASE_URL",
    1049: "the database does not exist; create it, or check its name in DATABASE_URL",
    1698: "the server refuses this user; check the user in DATABASE_URL",
}
# libpq says this in words only: it has no result, and so no SQLSTATE, before the connection is made.
_HOPELESS_WORDS = {
    "password authentication failed": _HOPELESS_STATES["28P01"],
    "no password supplied": _HOPELESS_STATES["28P01"],
    "no pg_hba.conf entry": _HOPELESS_STATES["28000"],
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One failed attempt, as reported to ``progress``.

    Attributes:
        number: 1 for the first.
        reason: The error's class name; never its text, which may hold an address.
        waited_seconds: Since the start.
        next_in_seconds: Until the next attempt.
    """

    number: int
    reason: str
    waited_seconds: float
    next_in_seconds: float


async def wait_until_ready(
    source: Source | AsyncEngine = None,
    *,
    timeout_seconds: float = 300,
    interval_seconds: float = 1,
    progress: Callable[[Attempt], object] | None = None,
) -> None:
    """Return as soon as the database answers a query.

    Args:
        source: A URL, `DatabaseSettings`, an engine, or nothing: then the environment says.
        timeout_seconds: For everything together. One attempt takes at most 5 s of it.
        interval_seconds: Pause after the first failure; it grows to 10 s, with jitter.
        progress: Called after each failed attempt.

    Raises:
        DatabaseUnavailableError: No answer in time; or, at once, an answer that no waiting changes (wrong password,
            unknown database).
    """
    waiting = _Waiting(timeout_seconds, interval_seconds, progress)
    from sqlalchemy.ext.asyncio import AsyncEngine  # noqa: PLC0415 - slow, and only asyncio needs it

    is_ours = not isinstance(source, AsyncEngine)
    engine = (
        source if isinstance(source, AsyncEngine) else create_async_engine(source, poolclass=pool.NullPool)
    )
    try:
        while not await _answers(engine, waiting):
            pass
    finally:
        if is_ours:
            await engine.dispose()


async def _answers(engine: AsyncEngine, waiting: _Waiting) -> bool:
    try:
        async with asyncio.timeout(waiting.attempt_seconds()), engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    except Exception as error:  # noqa: BLE001 - sorted by what it says
        await asyncio.sleep(waiting.pause_after(error))
        return False
    return True


def wait_until_ready_sync(
    source: Source | Engine = None,
    *,
    timeout_seconds: float = 300,
    interval_seconds: float = 1,
    progress: Callable[[Attempt], object] | None = None,
) -> None:
    """Same as `wait_until_ready`, blocking."""
    waiting = _Waiting(timeout_seconds, interval_seconds, progress)
    while True:
        engine = (
            source if isinstance(source, Engine) else _one_attempt_engine(source, waiting.attempt_seconds())
        )
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except Exception as error:  # noqa: BLE001 - sorted by what it says
            time.sleep(waiting.pause_after(error))
        else:
            break
        finally:
            if engine is not source:
                engine.dispose()


def _one_attempt_engine(source: Source, seconds: float) -> Engine:
    settings = settings_from(source).model_copy(update={"connect_timeout": seconds})
    return create_sync_engine(settings, poolclass=pool.NullPool)


class _Waiting:
    """The clock and the judgement of one wait; no I/O."""

    def __init__(
        self, timeout_seconds: float, interval_seconds: float, progress: Callable[[Attempt], object] | None
    ) -> None:
        self._started = time.monotonic()
        self._timeout = timeout_seconds
        self._interval = interval_seconds
        self._progress = progress
        self._attempts = 0

    def attempt_seconds(self) -> float:
        """How long the next attempt may take."""
        left = self._timeout - (time.monotonic() - self._started)
        return max(0.1, min(_LONGEST_ATTEMPT_SECONDS, left))

    def pause_after(self, error: Exception) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            DatabaseUnavailableError: There is none: time is up, or waiting does not help.
            ConfigurationError: The error is one.
        """
        if isinstance(error, ConfigurationError):
            raise error
        self._attempts += 1
        waited = time.monotonic() - self._started
        if advice := _hopeless(error):
            raise DatabaseUnavailableError(
                f"The database answers, but refuses: {advice}.",
                waited_seconds=waited,
                attempts=self._attempts,
            ) from None
        # Full jitter on the growing part keeps many starting processes from knocking together.
        grown = min(_LONGEST_PAUSE_SECONDS, self._interval * 2 ** min(self._attempts - 1, 16))
        pause: float = self._interval + (grown - self._interval) * random.random()  # noqa: S311 - no secrecy needed
        if waited + pause >= self._timeout:
            raise DatabaseUnavailableError(
                f"The database did not answer within {self._timeout:g} s ({self._attempts} attempts; the last one "
                f"ended with {_root(error)}). Check that the server runs and that host and port in DATABASE_URL are "
                f"right.",
                waited_seconds=waited,
                attempts=self._attempts,
            ) from None
        attempt = Attempt(self._attempts, _root(error), waited, pause)
        _logger.info(
            "The database is not ready yet (attempt %d: %s); next attempt in %.1f s.",
            attempt.number,
            attempt.reason,
            attempt.next_in_seconds,
        )
        if self._progress is not None:
            self._progress(attempt)
        return pause


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = getattr(at, "orig", None) or at.__cause__
    return found


def _root(error: BaseException) -> str:
    return type(_causes(error)[-1]).__name__


def _hopeless(error: BaseException) -> str | None:
    """Why no waiting helps, and what does; None where waiting may help."""
    for cause in _causes(error):
        state = getattr(cause, "sqlstate", None)
        if state in _HOPELESS_STATES:
            return _HOPELESS_STATES[state]
        number = cause.args[0] if cause.args else None
        if isinstance(number, int) and number in _HOPELESS_MYSQL:
            return _HOPELESS_MYSQL[number]
        text_of = str(cause).lower()
        for words, advice in _HOPELESS_WORDS.items():
            if words in text_of:
                return advice
        if "fatal" in text_of and "database" in text_of and "does not exist" in text_of:
            return _HOPELESS_STATES["3D000"]
        if "fatal" in text_of and "role" in text_of and "does not exist" in text_of:
            return _HOPELESS_STATES["28000"]
    return None
