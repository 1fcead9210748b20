"""End a wait that no timeout can reach: cut the socket under a driver's connection, from outside.

A driver that waits for a frozen server cannot be interrupted from another thread, and cancelling an asyncio driver
makes some of them wait for that server once more. An end of file on the socket ends the wait in every driver at once.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any


class Lifeline:
    """Holds a duplicate of a connection's socket, so that the descriptor can never be somebody else's by then."""

    def __init__(self, driver_connection: Any) -> None:
        self.was_cut = False
        self._socket: socket.socket | None = None
        with contextlib.suppress(Exception):  # closed, or a driver whose socket cannot be seen
            descriptor = _descriptor(driver_connection)
            if descriptor is not None and descriptor >= 0:
                self._socket = socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM)

    @property
    def can_cut(self) -> bool:
        """False for SQLite, and for drivers that hide their socket."""
        return self._socket is not None

    def cut(self) -> None:
        """Have whoever waits on the connection read an end of file now. May be called from any thread."""
        held = self._socket
        if held is not None:
            self.was_cut = True
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)

    def let_go(self) -> None:
        """Close the duplicate; the connection itself is untouched."""
        held, self._socket = self._socket, None
        if held is not None:
            held.close()


def _descriptor(connection: Any) -> int | None:
    if (libpq := getattr(connection, "pgconn", None)) is not None:
        return int(libpq.socket)
    if (own := getattr(connection, "_sock", None)) is not None:
        return int(own.fileno())
    if hasattr(connection, "fileno"):
        return int(connection.fileno())
    stream = getattr(connection, "_transport", None) or getattr(connection, "_writer", None)
    peer = None if stream is None else stream.get_extra_info("socket")
    return None if peer is None else int(peer.fileno())
