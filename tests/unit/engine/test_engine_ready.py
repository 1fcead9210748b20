from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy.exc import OperationalError

from dotmac.database.engine import create_async_engine
from dotmac.database.engine._ready import _Waiting
from dotmac.database.errors import DatabaseUnavailableError


class ServerError(Exception):
    def __init__(self, message, sqlstate=None):
        super().__init__(message)
        self.sqlstate = sqlstate


@pytest.mark.parametrize("sqlstate", ["28P01", "28000", "3D000"])
def test_refusals_end_the_wait_at_once(sqlstate):
    with pytest.raises(DatabaseUnavailableError, match="refuses") as caught:
        _Waiting(300, 1, None).pause_after(ServerError("password of ada is s3cret", sqlstate))
    assert caught.value.attempts == 1
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError(), TimeoutError(), ServerError("starting up", "57P03")]
)
def test_other_errors_are_waited_out_and_reported(error):
    seen = []
    waiting = _Waiting(300, 1, seen.append)
    pauses = [waiting.pause_after(error) for _ in range(12)]
    assert all(1 <= pause <= 10 for pause in pauses)
    assert [attempt.number for attempt in seen] == list(range(1, 13))
    assert seen[0].reason == type(error).__name__


def test_time_that_would_run_out_in_the_next_pause_ends_the_wait():
    with pytest.raises(DatabaseUnavailableError, match=r"did not answer within 0\.5 s \(1 attempts"):
        _Waiting(0.5, 1, None).pause_after(ConnectionRefusedError("db.example:5432"))


def test_a_sqlite_file_that_cannot_be_opened_leaves_no_thread_behind(tmp_path):
    async def threads_after_a_failure():
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/missing/app.db")
        with pytest.raises(OperationalError):
            await engine.connect()
        return [thread.name for thread in threading.enumerate() if "_connection_worker" in thread.name]

    assert asyncio.run(threads_after_a_failure()) == []
