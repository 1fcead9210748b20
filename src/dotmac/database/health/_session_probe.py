"""Ask on the connection that a caller's transaction runs on, and leave that transaction as it was.

Nothing is committed or rolled back. Only where the server does not answer in time is the connection cut: it could
not be used any more anyway, and nothing else ends the wait.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

from sqlalchemy.util import greenlet_spawn

from dotmac.database.health._attempt import Limits, Measurement, NoAnswerError
from dotmac.database.health._lifeline import Lifeline
from dotmac.database.health._question import facts_from, statement_for

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


def probe_connection(connection: Connection, limits: Limits) -> Measurement:
    """Ask on ``connection``, within ``limits.query`` seconds.

    Raises:
        NoAnswerError: Time was up; the connection is cut.
        Exception: What the driver raised.
    """
    lifeline = Lifeline(connection.connection.driver_connection)
    timer = threading.Timer(limits.query, lifeline.cut)
    timer.daemon = True
    if lifeline.can_cut:
        timer.start()
    try:
        return _ask(connection)
    except Exception as error:
        if lifeline.was_cut:
            raise NoAnswerError("query", limits.query) from error
        raise
    finally:
        timer.cancel()
        lifeline.let_go()


async def probe_connection_async(connection: Connection, limits: Limits) -> Measurement:
    """Same as `probe_connection`, for the connection under an asyncio session."""
    lifeline = Lifeline(connection.connection.driver_connection)
    timer = asyncio.get_running_loop().call_later(limits.query, lifeline.cut)
    try:
        if lifeline.can_cut:
            return await greenlet_spawn(_ask, connection)
        async with asyncio.timeout(limits.query):
            return await greenlet_spawn(_ask, connection)
    except Exception as error:
        if lifeline.was_cut or isinstance(error, TimeoutError):
            raise NoAnswerError("query", limits.query) from error
        raise
    finally:
        timer.cancel()
        lifeline.let_go()


def _ask(connection: Connection) -> Measurement:
    name = connection.dialect.name
    began_here = not connection.in_transaction()
    began = time.perf_counter()
    try:
        row = connection.exec_driver_sql(statement_for(name)).first()
    finally:
        if began_here and connection.in_transaction():
            connection.rollback()
    return Measurement(0.0, time.perf_counter() - began, facts_from(name, row))
