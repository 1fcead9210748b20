"""What a driver's error means: the one table that retries, breakers and health checks read.

The code of an error decides, not its class: drivers and SQLAlchemy give the same server error many classes. Sources:
PostgreSQL manual, appendix A and section 13.5; MySQL 8.0 and MariaDB error references; https://sqlite.org/rescode.html.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy.exc import InvalidRequestError, OperationalError

from dotmac.database.errors import (
    CircuitOpenError,
    CommitFailedError,
    CommitOutcomeUnknownError,
    ConnectionPoolError,
    TransactionStateError,
)
from dotmac.database.transactions._provenance import (
    during_commit,
    from_the_database,
    while_connecting,
    with_causes,
)


class Phase(StrEnum):
    """What was being done when an error came."""

    CONNECT = "connect"
    STATEMENT = "statement"
    COMMIT = "commit"


class ErrorKind(StrEnum):
    """What kind of trouble an error is."""

    CONFLICT = "conflict"
    """Rolled back by the server so that others can go on: deadlock, serialization failure."""
    LOCK_TIMEOUT = "lock_timeout"
    UNREACHABLE = "unreachable"
    """No connection was made: refused, no answer, starting up, too many clients. Nothing was sent."""
    DISCONNECTED = "disconnected"
    """The connection was lost before COMMIT was sent: rolled back."""
    READ_ONLY_NODE = "read_only_node"
    STALE_PLAN = "stale_plan"
    """A prepared statement met a changed table."""
    AMBIGUOUS_COMMIT = "ambiguous_commit"
    """The connection was lost after COMMIT was sent: written or not, nobody knows."""
    DUPLICATE = "duplicate"
    """A unique or exclusion constraint: perhaps a race with another transaction, perhaps the caller's mistake."""
    TIMEOUT = "timeout"
    """A statement or transaction ran longer than the server allows."""
    BREAKER_OPEN = "breaker_open"
    APPLICATION = "application"
    """Everything else: trying again would fail again."""


_RETRYABLE = frozenset(
    {
        ErrorKind.CONFLICT,
        ErrorKind.LOCK_TIMEOUT,
        ErrorKind.UNREACHABLE,
        ErrorKind.DISCONNECTED,
        ErrorKind.READ_ONLY_NODE,
        ErrorKind.STALE_PLAN,
        ErrorKind.BREAKER_OPEN,
    }
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one error means.

    Attributes:
        kind: What kind of trouble it is.
        phase: When it came.
        code: SQLSTATE, MySQL number or SQLite extended code, as text; None if the error has none.
        disconnect: The connection is of no use any more.
    """

    kind: ErrorKind
    phase: Phase
    code: str | None = None
    disconnect: bool = False

    @property
    def retryable(self) -> bool:
        """True if the whole transaction may be tried again from its start, on a fresh session."""
        return self.kind in _RETRYABLE

    @property
    def connectivity(self) -> bool:
        """True if the server could not be reached or was lost: what breakers count, and health checks report."""
        return self.kind is ErrorKind.UNREACHABLE or (
            self.disconnect and self.kind in {ErrorKind.DISCONNECTED, ErrorKind.AMBIGUOUS_COMMIT}
        )

    @property
    def read_only_node(self) -> bool:
        """True if a write went to a server or transaction that only reads."""
        return self.kind is ErrorKind.READ_ONLY_NODE

    @property
    def ambiguous_commit(self) -> bool:
        """True if the transaction may have been written."""
        return self.kind is ErrorKind.AMBIGUOUS_COMMIT

    @property
    def application(self) -> bool:
        """True if it says nothing about the server: statement, data or code are at fault."""
        return self.kind in {ErrorKind.APPLICATION, ErrorKind.DUPLICATE, ErrorKind.TIMEOUT}


_SQLSTATES = {
    "40001": ErrorKind.CONFLICT,
    "40P01": ErrorKind.CONFLICT,
    "40003": ErrorKind.AMBIGUOUS_COMMIT,
    "08007": ErrorKind.AMBIGUOUS_COMMIT,
    "55P03": ErrorKind.LOCK_TIMEOUT,
    "53300": ErrorKind.UNREACHABLE,
    "57P03": ErrorKind.UNREACHABLE,
    "08001": ErrorKind.UNREACHABLE,
    "08004": ErrorKind.UNREACHABLE,
    "08000": ErrorKind.DISCONNECTED,
    "08003": ErrorKind.DISCONNECTED,
    "08006": ErrorKind.DISCONNECTED,
    "57P01": ErrorKind.DISCONNECTED,
    "57P02": ErrorKind.DISCONNECTED,
    "57P05": ErrorKind.DISCONNECTED,
    "25P03": ErrorKind.DISCONNECTED,
    "25006": ErrorKind.READ_ONLY_NODE,
    "57014": ErrorKind.TIMEOUT,
    "25P04": ErrorKind.TIMEOUT,
    "23505": ErrorKind.DUPLICATE,
    "23P01": ErrorKind.DUPLICATE,
}
_ENDS_CONNECTION = frozenset({"25P04"})
_STALE_PLAN = "0A000"
_STALE_PLAN_WORDS = "cached plan must not change result type"

_MYSQL = {
    1213: ErrorKind.CONFLICT,  # deadlock; also a failed Galera certification, at COMMIT
    1614: ErrorKind.CONFLICT,  # the same in an XA transaction
    1020: ErrorKind.CONFLICT,  # MariaDB: the row changed since this snapshot
    1205: ErrorKind.LOCK_TIMEOUT,
    3572: ErrorKind.LOCK_TIMEOUT,  # NOWAIT
    1040: ErrorKind.UNREACHABLE,  # too many connections
    1203: ErrorKind.UNREACHABLE,  # ... of this user
    1226: ErrorKind.UNREACHABLE,  # ... by this user's limits
    1047: ErrorKind.UNREACHABLE,  # Galera: not ready
    2002: ErrorKind.UNREACHABLE,
    2003: ErrorKind.UNREACHABLE,
    2005: ErrorKind.UNREACHABLE,
    1053: ErrorKind.DISCONNECTED,  # shutdown
    1077: ErrorKind.DISCONNECTED,
    1079: ErrorKind.DISCONNECTED,
    1152: ErrorKind.DISCONNECTED,
    1184: ErrorKind.DISCONNECTED,
    1927: ErrorKind.DISCONNECTED,  # MariaDB: killed
    4031: ErrorKind.DISCONNECTED,  # idle for too long
    2006: ErrorKind.DISCONNECTED,
    2013: ErrorKind.DISCONNECTED,
    2055: ErrorKind.DISCONNECTED,
    1290: ErrorKind.READ_ONLY_NODE,
    1792: ErrorKind.READ_ONLY_NODE,
    1836: ErrorKind.READ_ONLY_NODE,
    1317: ErrorKind.TIMEOUT,
    1969: ErrorKind.TIMEOUT,  # MariaDB: max_statement_time
    3024: ErrorKind.TIMEOUT,
    1062: ErrorKind.DUPLICATE,
    1586: ErrorKind.DUPLICATE,
}
_MYSQL_READ_ONLY_WORDS = "read-only"  # 1290 names whatever option is in the way

_SQLITE = {
    # BUSY, BUSY_SNAPSHOT (517) and its other kinds. A transaction that read before it writes does not wait for another
    # writer: it is refused at once, and has to start again.
    5: ErrorKind.CONFLICT,
    6: ErrorKind.CONFLICT,  # LOCKED, in a shared cache
    8: ErrorKind.READ_ONLY_NODE,
    2067: ErrorKind.DUPLICATE,  # CONSTRAINT_UNIQUE
    1555: ErrorKind.DUPLICATE,  # CONSTRAINT_PRIMARYKEY
}
_PRIMARY_CODE = 0xFF

# libpq has no SQLSTATE for what the server says before a connection is made, and drivers none for what they notice
# themselves: words are all there is. The first match counts.
_WORDS = (
    ("too many clients", "53300", ErrorKind.UNREACHABLE),
    ("too many connections", "53300", ErrorKind.UNREACHABLE),
    ("remaining connection slots", "53300", ErrorKind.UNREACHABLE),
    ("the database system is ", "57P03", ErrorKind.UNREACHABLE),
    ("authentication failed", "28P01", ErrorKind.APPLICATION),
    ("no password supplied", "28P01", ErrorKind.APPLICATION),
    ("no pg_hba.conf entry", "28000", ErrorKind.APPLICATION),
    ("fatal:  role ", "28000", ErrorKind.APPLICATION),
    ("fatal:  database ", "3D000", ErrorKind.APPLICATION),
    ("fatal:  permission denied", "42501", ErrorKind.APPLICATION),
    ("connection failed", "08001", ErrorKind.UNREACHABLE),
    ("connection timeout expired", "08001", ErrorKind.UNREACHABLE),
    ("could not translate host name", "08001", ErrorKind.UNREACHABLE),
    ("failed to resolve host", "08001", ErrorKind.UNREACHABLE),
)
# Of drivers that are not in this table SQLAlchemy says at least that the error is about the database's operation.
_WORDS_OF_OTHERS = (
    ("deadlock", ErrorKind.CONFLICT),
    ("could not serialize", ErrorKind.CONFLICT),
    ("database is locked", ErrorKind.LOCK_TIMEOUT),
    ("connection refused", ErrorKind.UNREACHABLE),
    ("could not connect", ErrorKind.UNREACHABLE),
    ("connection lost", ErrorKind.DISCONNECTED),
    ("connection reset", ErrorKind.DISCONNECTED),
    ("lost connection", ErrorKind.DISCONNECTED),
    ("gone away", ErrorKind.DISCONNECTED),
    ("server closed the connection", ErrorKind.DISCONNECTED),
)
# Said by a driver before it sends anything, so that even a COMMIT cannot have arrived.
_NEVER_SENT = ("connection is closed", "cannot call transaction.commit()")
_NEVER_CONNECTED = (ConnectionRefusedError, FileNotFoundError, socket.gaierror)
_MYSQL_DRIVERS = frozenset({"asyncmy", "pymysql", "aiomysql", "MySQLdb"})
_DRIVERS = _MYSQL_DRIVERS | {"asyncpg", "psycopg", "sqlite3", "aiosqlite"}


def classify(error: BaseException, phase: Phase | None = None) -> Verdict:
    """What ``error`` means: a driver's, one that SQLAlchemy wraps or that was raised from it, or one of ours.

    Args:
        error: What was raised.
        phase: When, if the caller knows better than the traceback.

    A bare ``OSError`` or ``TimeoutError`` counts as the database's only if it came out of a driver or SQLAlchemy, not
    out of the caller's own work with other services. Cancellations are the application's.
    """
    if isinstance(error, BaseExceptionGroup):
        return _of_group(error, phase)
    if isinstance(error, CommitFailedError) and error.__cause__ is not None:
        # Definitely rolled back: whatever the cause says, COMMIT is not in doubt.
        return _judged(error.__cause__, phase or Phase.COMMIT, in_doubt=False)
    if isinstance(error, CommitOutcomeUnknownError):
        return Verdict(ErrorKind.AMBIGUOUS_COMMIT, Phase.COMMIT, disconnect=True)
    if isinstance(error, CircuitOpenError):
        return Verdict(ErrorKind.BREAKER_OPEN, phase or Phase.CONNECT)
    if isinstance(error, TransactionStateError | ConnectionPoolError):
        return Verdict(ErrorKind.APPLICATION, phase or Phase.STATEMENT)
    if phase is None:
        phase = _phase_of(error)
    return _judged(error, phase, in_doubt=phase is Phase.COMMIT)


def _phase_of(error: BaseException) -> Phase:
    if during_commit(error):
        return Phase.COMMIT
    return Phase.CONNECT if while_connecting(error) else Phase.STATEMENT


def _of_group(group: BaseExceptionGroup[BaseException], phase: Phase | None) -> Verdict:
    """The worst of its members: doubt about COMMIT before what no retry mends, before what one may."""
    verdicts = [classify(member, phase) for member in group.exceptions]
    return min(verdicts, key=lambda verdict: (not verdict.ambiguous_commit, verdict.retryable))


def _judged(error: BaseException, phase: Phase, *, in_doubt: bool) -> Verdict:
    chain = list(with_causes(error))
    # SQLAlchemy looked at the driver's connection; that knows better than a message.
    lost = any(getattr(part, "connection_invalidated", False) for part in chain)
    for part in chain:
        kind, code = _by_code(part)
        if kind is not None:
            return _settled(kind, code, phase, lost=lost, in_doubt=in_doubt and not _never_sent(chain))
    if any(_is_given_up_checkout(part) for part in chain):
        return Verdict(ErrorKind.UNREACHABLE, phase, disconnect=True)
    for part in chain:
        if isinstance(part, _NEVER_CONNECTED) and from_the_database(part):
            return Verdict(ErrorKind.UNREACHABLE, phase, disconnect=True)
    if lost or any(_is_bare_loss(part) for part in chain):
        return _settled(
            ErrorKind.DISCONNECTED, None, phase, lost=True, in_doubt=in_doubt and not _never_sent(chain)
        )
    if in_doubt and not isinstance(error, Exception):
        return Verdict(ErrorKind.AMBIGUOUS_COMMIT, phase)  # cancelled while COMMIT was under way
    return Verdict(ErrorKind.APPLICATION, phase)


def _settled(kind: ErrorKind, code: str | None, phase: Phase, *, lost: bool, in_doubt: bool) -> Verdict:
    # Of a connection that ends with COMMIT, only a conflict says that nothing was written. Poolers say 08P01.
    if in_doubt and kind is not ErrorKind.CONFLICT and (lost or (code or "").startswith("08")):
        kind = ErrorKind.DISCONNECTED
    if kind is ErrorKind.DISCONNECTED:
        if in_doubt:
            kind = ErrorKind.AMBIGUOUS_COMMIT
        elif phase is Phase.CONNECT:
            kind = ErrorKind.UNREACHABLE
        lost = True
    disconnect = lost or kind is ErrorKind.UNREACHABLE or code in _ENDS_CONNECTION
    return Verdict(kind, phase, code, disconnect)


def _by_code(error: Any) -> tuple[ErrorKind | None, str | None]:
    """The kind and code of one error; the kind is None where it has no code that says anything."""
    # Before the SQLSTATE, which some MySQL drivers have too, and which says less than the number.
    number = error.args[0] if error.args else None
    module = type(error).__module__.partition(".")[0]
    if module in _MYSQL_DRIVERS and isinstance(number, int) and number:
        return _by_mysql_number(number, error), str(number)
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str) and state:
        return _by_sqlstate(state, error), state
    number = getattr(error, "sqlite_errorcode", None)
    if isinstance(number, int):
        kind = _SQLITE.get(number) or _SQLITE.get(number & _PRIMARY_CODE)
        return kind or ErrorKind.APPLICATION, str(number)
    if module in _DRIVERS or _is_adapted(error):
        return _by_words(error, module)
    return _of_other_driver(error), None


def _by_words(error: BaseException, module: str) -> tuple[ErrorKind | None, str | None]:
    if _is_stale_plan(error):
        return ErrorKind.STALE_PLAN, _STALE_PLAN
    if type(error).__name__ == "InternalClientError":
        # asyncpg has lost track of its connection, as when that ends while the first answer is read.
        return ErrorKind.DISCONNECTED, None
    text = str(error).lower()
    for words, code, kind in _WORDS:
        if words in text:
            return kind, code
    if any(words in text for words in _NEVER_SENT) or _is_plain_operational(error, module):
        return ErrorKind.DISCONNECTED, None
    return None, None


def _of_other_driver(error: BaseException) -> ErrorKind | None:
    driver_error = getattr(error, "orig", None)
    if not isinstance(error, OperationalError) or driver_error is None or _is_adapted(driver_error):
        return None
    if type(driver_error).__module__.partition(".")[0] in _DRIVERS:
        return None  # judged by its own code
    text = str(driver_error).lower()
    return next((kind for words, kind in _WORDS_OF_OTHERS if words in text), None)


def _by_sqlstate(state: str, error: object) -> ErrorKind:
    if state == _STALE_PLAN and (_is_stale_plan(error) or _STALE_PLAN_WORDS in str(error)):
        return ErrorKind.STALE_PLAN
    return _SQLSTATES.get(state, ErrorKind.APPLICATION)


def _by_mysql_number(number: int, error: object) -> ErrorKind:
    kind = _MYSQL.get(number, ErrorKind.APPLICATION)
    if number == 1290 and _MYSQL_READ_ONLY_WORDS not in str(error):  # noqa: PLR2004 - see the table
        return ErrorKind.APPLICATION
    return kind


def _is_stale_plan(error: object) -> bool:
    """The class that asyncpg has for it; SQLAlchemy's of the same name has no SQLSTATE."""
    return type(error).__name__ == "InvalidCachedStatementError"


def _is_given_up_checkout(error: BaseException) -> bool:
    """SQLAlchemy's pool says no more than this when the connections it opens are dead before they are used."""
    return type(error) is InvalidRequestError and str(error) == "This connection is closed"


def _is_adapted(error: BaseException) -> bool:
    """True for the error classes that SQLAlchemy's asyncio adapters put in front of a driver's."""
    return type(error).__module__.startswith("sqlalchemy.dialects.")


def _is_plain_operational(error: BaseException, module: str) -> bool:
    """Psycopg raises ``OperationalError`` itself, without a SQLSTATE, only about the connection.

    PyMySQL and its asyncio relatives raise ``InterfaceError(0, …)`` on a connection they closed before.
    """
    if module == "psycopg":
        return type(error).__name__ in {"OperationalError", "ConnectionTimeout"}
    return type(error).__name__ == "InterfaceError" and bool(error.args) and error.args[0] == 0


def _never_sent(chain: list[BaseException]) -> bool:
    return any(words in str(part).lower() for part in chain for words in _NEVER_SENT)


def _is_bare_loss(error: BaseException) -> bool:
    if isinstance(error, asyncio.IncompleteReadError):
        return from_the_database(error)
    # A refused certificate is a ValueError too, and a socket that may not be opened stays shut.
    is_network = isinstance(error, OSError) and not isinstance(error, ValueError | PermissionError)
    return is_network and from_the_database(error, or_own=isinstance(error, ConnectionError | TimeoutError))
