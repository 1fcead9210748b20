"""The few messages of PostgreSQL's protocol that starting a server takes, so that no driver is needed for it.

It speaks only over the server's private socket, where the directory's permissions stand in for a password.
https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

_PROTOCOL_3 = 196608
_TIMEOUT_SECONDS = 60.0


class WireError(Exception):
    """The server refused a statement or a connection.

    Attributes:
        sqlstate: The server's code for it.
    """

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


@dataclass(frozen=True, slots=True)
class _Message:
    kind: bytes
    body: bytes


class WireConnection:
    """A superuser's connection over the private socket, for single statements without parameters.

    Raises:
        OSError: Nobody listens on the socket.
        WireError: The server refuses, for example because it is starting up.
    """

    def __init__(self, path: Path, database: str = "postgres") -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._reader = self._socket.makefile("rb")
        try:
            self._socket.settimeout(_TIMEOUT_SECONDS)
            self._socket.connect(str(path))
            parameters = f"user\0postgres\0database\0{database}\0client_encoding\0UTF8\0\0".encode()
            self._socket.sendall(struct.pack("!ii", len(parameters) + 8, _PROTOCOL_3) + parameters)
            self._until_ready()
        except BaseException:
            self._release()
            raise

    def execute(self, sql: str) -> list[list[str | None]]:
        """The rows of ``sql`` as text.

        Raises:
            WireError: The server refused it.
        """
        body = sql.encode() + b"\0"
        self._socket.sendall(b"Q" + struct.pack("!i", len(body) + 4) + body)
        return self._until_ready()

    def close(self) -> None:
        """End the session."""
        with contextlib.suppress(OSError):
            self._socket.sendall(b"X\0\0\0\4")
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _release(self) -> None:
        self._reader.close()
        self._socket.close()

    def _until_ready(self) -> list[list[str | None]]:
        rows: list[list[str | None]] = []
        error: WireError | None = None
        while (message := self._receive()).kind != b"Z":
            if message.kind == b"D":
                rows.append(_row(message.body))
            elif message.kind == b"E":
                error = _error(message.body)
                if error.sqlstate.startswith(("57P", "28", "3D", "53")):
                    # Refusals to connect close the connection without becoming ready.
                    raise error
        if error is not None:
            raise error
        return rows

    def _receive(self) -> _Message:
        header = self._reader.read(5)
        if len(header) < 5:  # noqa: PLR2004 - one byte of kind, four of length
            raise ConnectionResetError("The server closed the connection.")
        (length,) = struct.unpack("!i", header[1:])
        return _Message(header[:1], self._reader.read(length - 4))


def _row(body: bytes) -> list[str | None]:
    (count,) = struct.unpack_from("!h", body)
    position = 2
    row: list[str | None] = []
    for _ in range(count):
        (length,) = struct.unpack_from("!i", body, position)
        position += 4
        row.append(None if length < 0 else body[position : position + length].decode())
        position += max(length, 0)
    return row


def _error(body: bytes) -> WireError:
    fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
    return WireError(fields.get(b"M", "unknown error"), fields.get(b"C", ""))


def quote_identifier(name: str) -> str:
    """``name`` as an SQL identifier.

    Raises:
        ValueError: It is empty, holds a NUL, or is longer than the 63 bytes PostgreSQL keeps.
    """
    if not name or "\0" in name or len(name.encode()) > 63:  # noqa: PLR2004 - NAMEDATALEN - 1
        raise ValueError(f"{name!r} cannot be an SQL name: it must have 1 to 63 bytes and no NUL.")
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """``text`` as an SQL string; standard_conforming_strings is on in every server of ours."""
    return "'" + text.replace("'", "''") + "'"
