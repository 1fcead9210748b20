"""What the classification decides without a server: provenance, causes, groups, and errors of our own."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import ssl

import asyncpg
import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from dotmac.database.errors import (
    CircuitOpenError,
    CommitFailedError,
    CommitOutcomeUnknownError,
    ConnectionPoolError,
    TransactionStateError,
)
from dotmac.database.transactions import ErrorKind, Phase, classify


def raised_by(work):
    with pytest.raises(BaseException) as raised:  # noqa: PT011 - whatever it is
        work()
    return raised.value


class DriverError(Exception):
    """A driver's error with a SQLSTATE."""

    def __init__(self, sqlstate):
        super().__init__("words")
        self.sqlstate = sqlstate


def caused(error, cause):
    error.__cause__ = cause
    return error


def refused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    smtplib.SMTP("127.0.0.1", port)


def connection_error():
    raise ConnectionResetError("the database went away")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError(), ErrorKind.APPLICATION),
        (asyncio.CancelledError(), ErrorKind.APPLICATION),
        (FileNotFoundError(), ErrorKind.UNREACHABLE),  # never raised: a socket that is not there
        (raised_by(lambda: open("/nowhere/at/all")), ErrorKind.APPLICATION),  # noqa: PTH123, SIM115
        (raised_by(refused), ErrorKind.APPLICATION),
        (raised_by(connection_error), ErrorKind.DISCONNECTED),
        (ssl.SSLCertVerificationError(), ErrorKind.APPLICATION),
        (PermissionError(), ErrorKind.APPLICATION),
        (DriverError("40001"), ErrorKind.CONFLICT),
        (DriverError("28P01"), ErrorKind.APPLICATION),
        (DriverError("08006"), ErrorKind.DISCONNECTED),
        (DriverError("40003"), ErrorKind.AMBIGUOUS_COMMIT),
        (DriverError("08007"), ErrorKind.AMBIGUOUS_COMMIT),
        (DriverError("0A000"), ErrorKind.APPLICATION),
        (OperationalError("SELECT 1", None, DriverError("40P01")), ErrorKind.CONFLICT),
        (OperationalError("SELECT 1", None, Exception("deadlock detected")), ErrorKind.CONFLICT),
        (OperationalError("SELECT 1", None, Exception("connection refused")), ErrorKind.UNREACHABLE),
        (OperationalError("SELECT 1", None, Exception("something else")), ErrorKind.APPLICATION),
        (caused(RuntimeError(), DriverError("40001")), ErrorKind.CONFLICT),
        (caused(TransactionStateError(), DriverError("40001")), ErrorKind.APPLICATION),
        (caused(CommitFailedError(), DriverError("40001")), ErrorKind.CONFLICT),
        (caused(CommitFailedError(), DriverError("57P01")), ErrorKind.DISCONNECTED),
        (CommitOutcomeUnknownError("?"), ErrorKind.AMBIGUOUS_COMMIT),
        (CircuitOpenError("db", retry_after=1), ErrorKind.BREAKER_OPEN),
        (ConnectionPoolError(), ErrorKind.APPLICATION),
        (PoolTimeoutError("no connection became free"), ErrorKind.APPLICATION),
        (ExceptionGroup("", [DriverError("40001"), DriverError("40P01")]), ErrorKind.CONFLICT),
        (ExceptionGroup("", [DriverError("40001"), ValueError()]), ErrorKind.APPLICATION),
        (ExceptionGroup("", [ValueError(), CommitOutcomeUnknownError("?")]), ErrorKind.AMBIGUOUS_COMMIT),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_an_error_means(error, kind):
    assert classify(error).kind is kind


@pytest.mark.parametrize("code", ["57P01", "57P02", "57P05", "25P03", "08000", "08003", "08006"])
def test_any_loss_during_commit_is_in_doubt(code):
    verdict = classify(DriverError(code), Phase.COMMIT)
    assert (verdict.kind, verdict.retryable) == (ErrorKind.AMBIGUOUS_COMMIT, False)
    assert classify(DriverError(code), Phase.STATEMENT).retryable
    assert classify(DriverError(code), Phase.CONNECT).kind is ErrorKind.UNREACHABLE


@pytest.mark.parametrize("code", ["40001", "40P01", "23505", "57014"])
def test_an_answer_of_the_server_during_commit_is_not_in_doubt(code):
    assert not classify(DriverError(code), Phase.COMMIT).ambiguous_commit


@pytest.mark.parametrize("code", ["08P01", "25P04", "57P03", "XX000"])
def test_a_connection_that_ends_with_commit_is_in_doubt_whatever_was_said(code):
    error = OperationalError("COMMIT", None, DriverError(code), connection_invalidated=True)
    assert classify(error, Phase.COMMIT).ambiguous_commit
    assert not classify(error, Phase.STATEMENT).ambiguous_commit


def test_a_pooler_that_lost_the_server_during_commit_is_in_doubt():
    assert classify(DriverError("08P01"), Phase.COMMIT).ambiguous_commit
    assert classify(DriverError("08P01"), Phase.STATEMENT).kind is ErrorKind.APPLICATION


def test_a_cancellation_during_commit_is_in_doubt_but_no_news_of_the_server():
    verdict = classify(asyncio.CancelledError(), Phase.COMMIT)
    assert verdict.ambiguous_commit
    assert not verdict.connectivity


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (1213, ErrorKind.CONFLICT),
        (1205, ErrorKind.LOCK_TIMEOUT),
        (1836, ErrorKind.READ_ONLY_NODE),
        (1792, ErrorKind.READ_ONLY_NODE),
        (2006, ErrorKind.DISCONNECTED),
        (2013, ErrorKind.DISCONNECTED),
        (1040, ErrorKind.UNREACHABLE),
        (1064, ErrorKind.APPLICATION),
    ],
)
@pytest.mark.parametrize("module", ["pymysql.err", "asyncmy.errors"])
def test_mysql_numbers_count_whatever_the_driver(number, kind, module):
    error_class = type("OperationalError", (Exception,), {"__module__": module, "sqlstate": "HY000"})
    assert classify(error_class(number, "words")).kind is kind


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("The MariaDB server is running with the --read-only option", ErrorKind.READ_ONLY_NODE),
        ("The MySQL server is running with the --secure-file-priv option", ErrorKind.APPLICATION),
    ],
)
def test_mysql_1290_is_about_reading_only_if_it_says_so(words, kind):
    error_class = type("OperationalError", (Exception,), {"__module__": "pymysql.err"})
    assert classify(error_class(1290, words)).kind is kind


@pytest.mark.parametrize(
    ("phase", "kind"),
    [
        (Phase.CONNECT, ErrorKind.UNREACHABLE),
        (Phase.STATEMENT, ErrorKind.DISCONNECTED),
        (Phase.COMMIT, ErrorKind.AMBIGUOUS_COMMIT),
    ],
)
def test_a_driver_that_lost_track_of_its_connection_has_lost_it(phase, kind):
    error = asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in progress")
    assert classify(OperationalError("SELECT 1", {}, error), phase).kind is kind
    assert classify(error, phase).connectivity
