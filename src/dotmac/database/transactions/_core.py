"""One transaction on one session: begin, commit and roll back, and say truthfully which of them happened.

Everything here blocks; the asyncio shell runs it in SQLAlchemy's greenlet, so there is one code for both.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import SessionTransactionOrigin
from sqlalchemy.orm.session import SessionTransactionState

from dotmac.database.errors import (
    CommitFailedError,
    CommitOutcomeUnknownError,
    ConfigurationError,
    TransactionStateError,
)
from dotmac.database.transactions._classification import Phase, classify
from dotmac.database.transactions._guard import MARK, admit, swallowed_error, witness
from dotmac.database.transactions._hooks import Hooks
from dotmac.database.transactions._outcome import TransactionOutcome, ask, track

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, RootTransaction
    from sqlalchemy.orm import Session, SessionTransaction

    from dotmac.database.transactions._classification import Verdict
    from dotmac.database.transactions._outcome import ServerTransaction

_logger = logging.getLogger("dotmac.database.transactions")
_READ_ONLY_OPTION = "dotmac_read_only"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionOptions:
    """How a transaction is begun and ended.

    Attributes:
        isolation_level: As SQLAlchemy writes it: ``"SERIALIZABLE"``, ``"REPEATABLE READ"``, ``"READ COMMITTED"``;
            None for the engine's.
        read_only: The server refuses writes.
        track_outcome: Ask PostgreSQL for the transaction's number before COMMIT (one round trip), so that a lost answer
            can be looked up.
        resolve_seconds: How long a lost answer is looked up.
    """

    isolation_level: str | None = None
    read_only: bool = False
    track_outcome: bool = False
    resolve_seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.isolation_level is not None and self.isolation_level.upper() == "AUTOCOMMIT":
            raise ValueError("AUTOCOMMIT is not an isolation level of a transaction: there would be none.")
        if not 0 <= self.resolve_seconds < float("inf"):
            raise ValueError(f"resolve_seconds must be at least 0, not {self.resolve_seconds!r}.")

    @property
    def shapes_beginning(self) -> bool:
        """True if the transaction has to begin in a special way."""
        return self.read_only or self.isolation_level is not None


class TransactionCore:
    """The root transaction of a session; `begin` first, then `commit` or `roll_back` once."""

    __slots__ = (
        "_tracked",
        "_transaction",
        "begun",
        "connections",
        "has_committed",
        "hooks",
        "is_committing",
        "is_in_doubt",
        "options",
        "session",
    )

    def __init__(self, session: Session, options: TransactionOptions) -> None:
        self.session = session
        self.options = options
        self.hooks = Hooks()
        self.connections: list[Connection] = []
        self.begun: list[RootTransaction | None] = []
        self.is_committing = False
        self.has_committed = False
        self.is_in_doubt = False
        self._transaction: SessionTransaction | None = None
        self._tracked: ServerTransaction | None = None

    def begin(self) -> None:
        """Begin, or take over what SQLAlchemy began by itself at a first query. Sends nothing unless options say so.

        Raises:
            TransactionStateError: Options came too late.
            ConfigurationError: The engine cannot do what the options say.
        """
        begun = self.session.get_transaction()
        if begun is not None and self.options.shapes_beginning:
            raise TransactionStateError(
                "isolation_level and read_only shape the beginning of a transaction, and this session is in one "
                "already. End it first (commit() or rollback()), or use a fresh session."
            )
        self.session.info[MARK] = self
        try:
            if begun is None:
                self._transaction = self.session.begin()
            else:
                self._transaction = begun
                for connection, *_rest in set(begun._connections.values()):  # noqa: SLF001 - no public list of them
                    admit(self, connection)
            if self.options.shapes_beginning:
                self._begin_specially()
        except BaseException:
            self.roll_back()
            raise

    def _begin_specially(self) -> None:
        options: dict[str, Any] = {}
        if self.options.isolation_level is not None:
            options["isolation_level"] = self.options.isolation_level
        if self.options.read_only:
            is_postgresql = self.session.get_bind().dialect.name == "postgresql"
            options["postgresql_readonly" if is_postgresql else _READ_ONLY_OPTION] = True
        connection = self.session.connection(execution_options=options)
        if _READ_ONLY_OPTION in options and not connection.info.get(_READ_ONLY_OPTION):
            raise ConfigurationError(
                "read_only=True needs an engine made by dotmac.database.create_engine or create_async_engine on this "
                "database: a plain SQLAlchemy engine would accept writes."
            )

    @property
    def is_read_only(self) -> bool:
        """True if writing was ruled out on purpose, here or on the engine."""
        return self.options.read_only or any(
            connection.get_execution_options().get(name)
            for connection in self.connections
            if not connection.closed
            for name in ("postgresql_readonly", _READ_ONLY_OPTION)
        )

    def commit(self) -> None:
        """Flush and COMMIT. After an error the session is rolled back and free for new work.

        Raises:
            TransactionStateError: The block ended the transaction itself, or swallowed an error that broke it.
            CommitFailedError: The server refused COMMIT: nothing is written.
            CommitOutcomeUnknownError: The connection was lost after COMMIT was sent.
        """
        try:
            self._prepare()
            self.is_committing = True
            self.session.commit()
        except BaseException as error:
            raised = self._commit_error(error)
            self._leave(error)
            if raised is error:
                raise
            raise raised from error
        self._unmark()

    def _prepare(self) -> None:
        session = self.session
        if session.get_transaction() is not self._transaction or not session.is_active:
            raise TransactionStateError(
                "The block ended its transaction itself, by commit(), rollback() or close(), or swallowed an error "
                "of a flush. Leave the end to the transaction; raise an error to have it rolled back. Nothing was "
                "committed."
            )
        session.flush()
        for connection in self.connections:
            if (error := swallowed_error(connection)) is not None:
                raise TransactionStateError(
                    f"An error ({type(error).__name__}) was caught and not raised, and the database gave the "
                    f"transaction up because of it: COMMIT would write nothing. Let the error out, or put the "
                    f"statement that may fail into a savepoint (`with tx.savepoint():`). Nothing was committed."
                ) from error
        if self.options.track_outcome and len(self.connections) == 1:
            self._tracked = track(self.connections[0])
            has_written = self._tracked is None or self._tracked.transaction_id is not None
            if not has_written and not all(map(_is_ours, session.dispatch.before_commit)):
                self._tracked = None  # a listener may still write

    def _commit_error(self, error: BaseException) -> BaseException:
        """What the caller is told about an error on the way to COMMIT or in it."""
        state = getattr(self._transaction, "_state", None)
        if self.has_committed or state is SessionTransactionState.COMMITTED:
            self.has_committed = True
            return error  # a listener of the session failed after COMMIT
        verdict = classify(error)
        if verdict.phase is not Phase.COMMIT or not self.is_committing:
            return error
        if not isinstance(error, Exception):
            self._doubt()
            error.add_note("Interrupted during COMMIT: whether the transaction was written is unknown.")
            return error
        if verdict.ambiguous_commit:
            self._doubt()
            return CommitOutcomeUnknownError(
                "The connection was lost during COMMIT: the transaction was written whole or not at all. It is not "
                "tried again by itself, which could write it twice. Look at the data, or have it looked up with "
                "track_outcome=True (PostgreSQL).",
                transaction=self._tracked,
            )
        return self._refusal(verdict)

    def _refusal(self, verdict: Verdict) -> Exception:
        """The server refused COMMIT."""
        if self.session.twophase:
            self._doubt()
            return CommitOutcomeUnknownError(
                "The second phase of COMMIT failed: what was prepared waits at its database until somebody commits it "
                "or rolls it back. Other databases of this session may have committed."
            )
        if len(self.connections) > 1:
            self._doubt()
            return CommitOutcomeUnknownError(
                "COMMIT was refused on one of several databases that this session wrote to: the others may have "
                "committed. Use one session per database, or Session(twophase=True)."
            )
        code = f" (code {verdict.code})" if verdict.code else ""
        return CommitFailedError(f"COMMIT was refused{code}: nothing of the transaction was written.")

    def _was_ended_beside_the_session(self) -> bool:
        """True if somebody committed (or rolled back) a connection's transaction by the connection itself."""
        for connection, begun in zip(self.connections, self.begun, strict=True):
            if connection.closed or connection.invalidated:
                continue
            now = connection.get_transaction()
            # After a failed flush the session itself has rolled back.
            if now is not begun and (now is not None or self.session.is_active):
                return True
        return False

    def _doubt(self) -> None:
        self.is_in_doubt = True
        watching = witness.get()
        if watching is not None:
            watching.committed = True

    def roll_back(self, error: BaseException | None = None) -> None:
        """Roll back because of ``error``; a connection that is lost needs no rollback, and none is missed."""
        if self._was_ended_beside_the_session():
            self._doubt()
        self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        self._unmark()
        if error is not None and classify(error).read_only_node and not self.is_read_only:
            # The node behind this address only reads now; another connection may reach the one that writes.
            for connection in self.connections:
                if not connection.closed:
                    connection.invalidate(error)
        try:
            self.session.rollback()
        except Exception as rollback_error:  # noqa: BLE001 - of whatever class: it must not hide what led here
            _logger.info("Rollback failed (%s): the connection is lost.", type(rollback_error).__name__)
            self.session.invalidate()

    def _unmark(self) -> None:
        if self.session.info.get(MARK) is self:
            del self.session.info[MARK]

    def ask_outcome(self, transaction: ServerTransaction) -> TransactionOutcome | None:
        """What the server says about a lost COMMIT, on another connection; None if asking again may tell."""
        try:
            outcome = ask(self.connections[0].engine, transaction)
        except Exception as error:  # noqa: BLE001 - drivers' own classes come through when no connection opens
            _logger.info("The outcome of a COMMIT could not be asked (%s).", type(error).__name__)
            return None
        return None if outcome is TransactionOutcome.IN_PROGRESS else outcome

    def resolved_error(
        self, unknown: CommitOutcomeUnknownError, outcome: TransactionOutcome | None
    ) -> Exception | None:
        """What is raised once the server answered: None if the transaction is committed after all."""
        self.is_in_doubt = outcome not in {TransactionOutcome.COMMITTED, TransactionOutcome.ABORTED}
        if outcome is TransactionOutcome.COMMITTED:
            self.has_committed = True
            return None
        if outcome is TransactionOutcome.ABORTED:
            failed = CommitFailedError(
                "The connection was lost during COMMIT, and the server says that the transaction was rolled back: "
                "nothing of it was written."
            )
            failed.__cause__ = unknown.__cause__
            return failed
        answer = "none in time" if outcome is None else outcome.value
        unknown.add_note(f"The server was asked about it; its answer: {answer}.")
        return unknown

    @property
    def bind(self) -> object:
        """The engine that the session works on; None where it has several."""
        if self.connections:
            return self.connections[0]
        return getattr(self.session, "bind", None)


def _is_ours(listener: object) -> bool:
    return getattr(listener, "__module__", "").startswith("dotmac.database.")


def enclosing(session: Session) -> TransactionCore | None:
    """The transaction of ours that ``session`` is in."""
    core: TransactionCore | None = session.info.get(MARK)
    return core


def is_begun_elsewhere(session: Session) -> bool:
    """True inside ``session.begin()`` or ``begin_nested()`` of somebody else, who will commit."""
    begun = session.get_transaction()
    return begun is not None and (
        session.in_nested_transaction() or begun.origin is not SessionTransactionOrigin.AUTOBEGIN
    )
