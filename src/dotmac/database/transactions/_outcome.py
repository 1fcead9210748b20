"""What became of a transaction whose COMMIT was never answered: PostgreSQL remembers it by number.

PostgreSQL manual, section 9.27.9 (``pg_xact_status``, since version 13). The answer is believed only from the server
that gave the number: one that was promoted or started since may have given the same number to another transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.util import greenlet_spawn

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

# The first 8 digits of a WAL file's name are the timeline, which a promotion changes.
_SERVER = (
    "CASE WHEN pg_is_in_recovery() THEN '' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END, "
    "pg_postmaster_start_time()::text"
)
_TRACK = f"SELECT pg_current_xact_id_if_assigned()::text, {_SERVER}"
_ASK = text(f"SELECT pg_xact_status(CAST(CAST(:id AS text) AS xid8)), {_SERVER}")
_INVALID_PARAMETER = "22023"


class TransactionOutcome(StrEnum):
    """What the server says about a transaction."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    IN_PROGRESS = "in progress"
    """The server has not noticed yet that the connection is gone; ask again."""
    UNKNOWN = "unknown"
    """Too long ago, or not the same server any more."""


@dataclass(frozen=True, slots=True)
class ServerTransaction:
    """A transaction as its server knows it.

    Attributes:
        transaction_id: Its number (``xid8``); None for one that has written nothing.
        timeline: The server's timeline then.
        server_started: When the server had been started.
    """

    transaction_id: str | None
    timeline: str
    server_started: str


def track(connection: Connection) -> ServerTransaction | None:
    """The number of the transaction that ``connection`` is in: one round trip. None where the server has no numbers."""
    if connection.dialect.name != "postgresql":
        return None
    number, timeline, started = connection.exec_driver_sql(_TRACK).one()
    return ServerTransaction(number, timeline, started)


def ask(engine: Engine, transaction: ServerTransaction) -> TransactionOutcome:
    """What became of ``transaction``, from a connection of its own: one round trip."""
    if transaction.transaction_id is None:
        return TransactionOutcome.COMMITTED  # nothing was written, so nothing can be lost
    with engine.connect() as connection:
        status, timeline, started = connection.execute(_ASK, {"id": transaction.transaction_id}).one()
    if status == TransactionOutcome.COMMITTED and (timeline, started) != (
        transaction.timeline,
        transaction.server_started,
    ):
        return TransactionOutcome.UNKNOWN
    return TransactionOutcome.UNKNOWN if status is None else TransactionOutcome(status)


def transaction_outcome(engine: Engine, transaction: ServerTransaction) -> TransactionOutcome:
    """What became of the ``transaction`` that a `CommitOutcomeUnknownError` carries.

    Raises:
        SQLAlchemyError: The server cannot be asked now.
    """
    return ask(engine, transaction)


async def transaction_outcome_async(
    engine: AsyncEngine, transaction: ServerTransaction
) -> TransactionOutcome:
    """Same as `transaction_outcome`, for asyncio engines."""
    outcome: TransactionOutcome = await greenlet_spawn(ask, engine.sync_engine, transaction)
    return outcome
