"""Logs and operating system errors become one line that says what to do."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dotmac.database.embedded import _failures
from dotmac.database.embedded._wire import quote_identifier, quote_literal

_PLACE = Path("/data")


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (
            'LOG:  could not bind IPv4 address "127.0.0.1": Address already in use',
            "Port 5 on 127.0.0.1 is taken",
        ),
        (
            "1:M Warning: Could not create server TCP listening socket 127.0.0.1:1: Address already in use",
            "Port 5",
        ),
        ('FATAL:  could not write lock file "postmaster.pid": No space left on device', "is full. Make room"),
        ("initdb: error: could not write file: Disk quota exceeded", "is full. Make room"),
        (
            "LOG:  starting\nFATAL:  data directory is odd\nLOG:  shut down",
            "in /data: data directory is odd.",
        ),
        (
            'LOG:  invalid value for "x"\nFATAL:  configuration file "y" contains errors',
            'invalid value for "x".',
        ),
        ("sh: not found", "in /data: sh: not found."),
        ("", "in /data: it wrote nothing."),
    ],
)
def test_log_becomes_one_line(log, expected):
    message = str(_failures.from_log("PostgreSQL", log, port=5, directory=_PLACE))
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_operating_system_without_room_is_a_full_disk(number):
    assert "The disk that holds /data is full" in str(_failures.from_os_error(OSError(number, "x"), _PLACE))


def test_other_operating_system_errors_name_the_file():
    error = PermissionError(errno.EACCES, "x", "/data/file")
    assert str(_failures.from_os_error(error, _PLACE)).startswith(
        "/data/file cannot be used for the server: Permission denied."
    )


def test_identifiers_and_literals_are_quoted():
    assert quote_identifier('a"b') == '"a""b"'
    assert quote_literal("it's") == "'it''s'"


@pytest.mark.parametrize("name", ["", "a\0b", "ä" * 32])
def test_impossible_identifiers_are_refused(name):
    with pytest.raises(ValueError, match="1 to 63 bytes"):
        quote_identifier(name)
