"""Ways in which a transaction that is committed, or may be, could be done twice or reported as what it is not."""

from __future__ import annotations

import contextlib
import sqlite3
from functools import partial

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from dotmac.database.engine import Database
from dotmac.database.errors import CommitOutcomeUnknownError
from dotmac.database.transactions import (
    DatabaseTransaction,
    RetryPolicy,
    ServerTransaction,
    TransactionManager,
    TransactionOutcome,
    database_error_handler,
    with_retry,
)
from dotmac.database.transactions._core import TransactionCore, TransactionOptions

QUICK = RetryPolicy(max_attempts=3, base_delay=0.001)
INSERT = text("INSERT INTO kept DEFAULT VALUES")


class Trial:
    """A database of one table, and work on it whose first attempt meets a conflict."""

    def __init__(self, path):
        self.path = path
        self.engine = create_engine(f"sqlite:///{path}")
        self.attempts = 0
        with self.engine.begin() as connection:
            connection.execute(text("CREATE TABLE kept (id INTEGER PRIMARY KEY)"))

    def conflict(self, *_args):
        if self.attempts == 1:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = 5
            raise OperationalError("COMMIT", {}, error)

    def lose_answers(self):
        dialect = self.engine.dialect
        commit = dialect.do_commit

        def commit_and_lose_the_answer(driver_connection):
            commit(driver_connection)
            if self.attempts == 1:
                raise ConnectionResetError

        dialect.do_commit = commit_and_lose_the_answer

    def kept(self):
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return connection.execute("SELECT count(*) FROM kept").fetchone()[0]


@pytest.fixture
def trial(tmp_path):
    made = Trial(tmp_path / "kept.db")
    yield made
    made.engine.dispose()


def commit_the_connection(session):
    session.connection().commit()


def commit_the_transaction_of_the_connection(session):
    session.connection().get_transaction().commit()


def commit_the_connection_and_go_on(session):
    session.connection().commit()
    session.execute(text("SELECT 1"))


@pytest.mark.parametrize(
    "commit",
    [commit_the_connection, commit_the_transaction_of_the_connection, commit_the_connection_and_go_on],
)
@pytest.mark.filterwarnings("ignore:transaction already deassociated")
def test_what_was_committed_by_the_connection_is_not_done_again(trial, commit):
    @with_retry(QUICK, source=sessionmaker(trial.engine))
    def work(session):
        trial.attempts += 1
        session.execute(INSERT)
        commit(session)
        trial.conflict()

    with pytest.raises(OperationalError):
        work()
    assert (trial.attempts, trial.kept()) == (1, 1)


class Records(DeclarativeBase):
    pass


class Record(Records):
    __tablename__ = "kept"

    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.mark.parametrize("flush", [True, False])
def test_a_conflict_in_a_flush_or_a_statement_is_tried_again(trial, flush):
    event.listen(trial.engine, "before_cursor_execute", trial.conflict)

    @with_retry(QUICK, source=sessionmaker(trial.engine))
    def work(session):
        trial.attempts += 1
        if flush:
            session.add(Record())
            session.flush()
        else:
            session.execute(INSERT)

    work()
    assert (trial.attempts, trial.kept()) == (2, 1)


def test_a_listener_that_fails_after_commit_has_nothing_done_again(trial):
    @with_retry(QUICK, source=sessionmaker(trial.engine))
    def work(session):
        trial.attempts += 1
        session.execute(INSERT)

    event.listen(Session, "after_commit", trial.conflict, insert=True)
    try:
        with pytest.raises(OperationalError):
            work()
    finally:
        event.remove(Session, "after_commit", trial.conflict)
    assert (trial.attempts, trial.kept()) == (1, 1)


def swallow(trial, session):
    with contextlib.suppress(CommitOutcomeUnknownError), DatabaseTransaction.sync_transaction(session) as tx:
        tx.execute(INSERT)
    trial.conflict()


def fail_in_the_end(trial, session):
    try:
        session.execute(INSERT)
        session.commit()
    finally:
        trial.conflict()


@pytest.mark.parametrize("work", [swallow, fail_in_the_end])
def test_a_doubt_behind_another_error_is_not_forgotten(trial, work):
    trial.lose_answers()

    @database_error_handler(3, delay_seconds=0.001)
    def done():
        trial.attempts += 1
        with Session(trial.engine) as session:
            work(trial, session)

    with pytest.raises(OperationalError):
        done()
    assert (trial.attempts, trial.kept()) == (1, 1)


def test_what_the_server_calls_committed_is_committed(trial):
    with Session(trial.engine) as session:
        core = TransactionCore(session, TransactionOptions())
        unknown = CommitOutcomeUnknownError("?", transaction=ServerTransaction("1", "", ""))
        assert core.resolved_error(unknown, TransactionOutcome.COMMITTED) is None
        assert (core.has_committed, core.is_in_doubt) == (True, False)


def test_a_second_phase_that_is_refused_is_in_doubt(trial):
    def refused(*_args, **_more):
        trial.conflict()

    dialect = trial.engine.dialect
    dialect.do_begin_twophase = dialect.do_prepare_twophase = lambda *_args, **_more: None
    dialect.do_commit_twophase = refused
    dialect.do_rollback_twophase = dialect.do_begin_twophase

    @with_retry(QUICK, source=partial(Session, trial.engine, twophase=True))
    def work(session):
        trial.attempts += 1
        session.execute(INSERT)

    with pytest.raises(CommitOutcomeUnknownError, match="second phase"):
        work()
    assert trial.attempts == 1


def test_a_listener_that_writes_before_commit_is_not_called_committed(dotmac_fault_proxy, dotmac_database):
    with Database(dotmac_fault_proxy.url(dotmac_database.url("psycopg"))) as database:
        manager = TransactionManager(database, policy=RetryPolicy(max_attempts=1), track_outcome=True)
        manager.execute_with_retry(
            lambda session: session.execute(text("CREATE TABLE kept_by_listener (id int)"))
        )

        def only_read(session):
            session.execute(text("SELECT 1"))
            event.listen(
                session,
                "before_commit",
                lambda session: session.execute(text("INSERT INTO kept_by_listener VALUES (1)")),
            )
            dotmac_fault_proxy.cut_before_commit()

        with pytest.raises(CommitOutcomeUnknownError):
            manager.execute_with_retry(only_read)
        count = text("SELECT count(*) FROM kept_by_listener")
        assert manager.execute_with_retry(lambda session: session.scalar(count)) == 0
