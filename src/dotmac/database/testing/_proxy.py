"""A TCP proxy in front of PostgreSQL that fails on demand: late, cut, silent, or just around COMMIT.

It runs on a thread and event loop of its own, so blocking and asyncio code are tested alike. It reads enough of the
protocol (PostgreSQL manual, chapter 55) to see a COMMIT go by, and declines TLS for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from enum import Enum, auto
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

Direction = Literal["to_server", "to_client"]

_CHUNK_BYTES = 65_536
_LENGTH_BYTES = 4
_CODES_THAT_ASK_FOR_ENCRYPTION = {80877103, 80877104}  # SSLRequest, GSSENCRequest
_READY_FOR_QUERY = b"Z\x00\x00\x00\x05I"
_START_SECONDS = 10.0


class _CommitFault(Enum):
    SWALLOW_ACKNOWLEDGEMENT = auto()
    WITHHOLD = auto()


class FaultProxy:
    """Forwards connections to a PostgreSQL server, and fails as told. Use it as a context manager.

    Args:
        host: Where the server is.
        port: Its TCP port.

    Example:
        >>> with FaultProxy("127.0.0.1", 5432) as proxy:  # doctest: +SKIP
        ...     engine = create_engine(proxy.url("postgresql+psycopg://app@127.0.0.1/app"))
        ...     proxy.swallow_commit_acknowledgement()
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._lock = threading.Lock()
        self._commit_faults: list[_CommitFault] = []
        self._delay_seconds = 0.0
        self._held: set[Direction] = set()
        self._refuses = False
        self._cut_after: Callable[[], int | None] = lambda: None
        self.port = 0
        """Where it listens, on 127.0.0.1."""
        self.accepted = 0
        """How many connections were made to it."""

    def start(self) -> Self:
        """Listen."""
        self._thread.start()
        self._call(self._listen())
        return self

    def stop(self) -> None:
        """Cut every connection and end."""
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def url(self, url: str) -> str:
        """``url`` with this proxy in place of its host and port."""
        from sqlalchemy import make_url  # noqa: PLC0415 - the plugin imports lightly

        through = make_url(url).set(host="127.0.0.1", port=self.port)
        return through.render_as_string(hide_password=False)

    def swallow_commit_acknowledgement(self, times: int = 1) -> None:
        """Let the next COMMIT through, wait until the server has done it, and cut the connection instead of answering."""
        with self._lock:
            self._commit_faults += [_CommitFault.SWALLOW_ACKNOWLEDGEMENT] * times

    def cut_before_commit(self, times: int = 1) -> None:
        """Cut the connection in place of forwarding the next COMMIT."""
        with self._lock:
            self._commit_faults += [_CommitFault.WITHHOLD] * times

    def delay(self, seconds: float) -> None:
        """Hold every message back for ``seconds``."""
        self._delay_seconds = seconds

    def black_hole(self, *directions: Direction) -> None:
        """Let nothing through, in the directions given or in both, until `heal`; connections stay open."""
        self._held = set(directions or ("to_server", "to_client"))
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def refuse(self) -> None:
        """Reset every new connection at once, until `heal`."""
        self._refuses = True

    def cut_after(self, count: int | Callable[[], int | None]) -> None:
        """Reset every new connection after ``count`` bytes, counted both ways; a callable draws one for each."""
        self._cut_after = count if callable(count) else lambda: count

    def cut_all(self, *, reset: bool = True) -> None:
        """Cut every open connection: by a reset, or in good order."""

        async def cut() -> None:
            for link in list(self._links):
                link.end(reset=reset)

        self._call(cut())

    def heal(self) -> None:
        """Forward everything again; what was held back flows on, and faults that did not happen yet are forgotten."""
        with self._lock:
            self._commit_faults.clear()
        self._delay_seconds, self._refuses, self._held = 0.0, False, set()
        self._cut_after = lambda: None
        self._loop.call_soon_threadsafe(self._flowing.set)

    @property
    def open_connections(self) -> int:
        """How many connections it forwards now."""
        return len(self._links)

    def _call(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_START_SECONDS)

    async def _listen(self) -> None:
        self._flowing.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = _Link(writer, self._cut_after())
        if self._refuses:
            link.end(reset=True)
            return
        self._links.add(link)
        try:
            server_reader, link.server = await asyncio.open_connection(*self._target)
            pumps = [
                asyncio.ensure_future(self._to_server(reader, link)),
                asyncio.ensure_future(self._to_client(server_reader, link)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
            link.end(reset=False)
        except OSError:
            link.end(reset=True)
        except asyncio.CancelledError:
            link.end(reset=True)
            raise
        finally:
            self._links.discard(link)

    async def _to_server(self, reader: asyncio.StreamReader, link: _Link) -> None:
        is_started = False
        while True:
            message = await _message(reader, typed=is_started)
            if not is_started:
                if _asks_for_encryption(message):
                    link.client.write(b"N")
                    continue
                is_started = True
            await self._hold("to_server")
            if _is_commit(message) and (fault := self._next_commit_fault()) is not None:
                if fault is _CommitFault.WITHHOLD:
                    link.end(reset=True)
                    return
                link.swallows = True
            if not link.forward(link.server, message):
                return

    async def _to_client(self, reader: asyncio.StreamReader, link: _Link) -> None:
        swallowed = b""
        while data := await reader.read(_CHUNK_BYTES):
            await self._hold("to_client")
            if link.swallows:
                swallowed += data
                if swallowed.endswith(_READY_FOR_QUERY):
                    link.end(reset=True)
                    return
            elif not link.forward(link.client, data):
                return

    async def _hold(self, direction: Direction) -> None:
        if self._delay_seconds:
            await asyncio.sleep(self._delay_seconds)
        if direction in self._held:
            await self._flowing.wait()

    def _next_commit_fault(self) -> _CommitFault | None:
        with self._lock:
            return self._commit_faults.pop(0) if self._commit_faults else None


class _Link:
    """One client's connection and the server's behind it."""

    def __init__(self, client: asyncio.StreamWriter, bytes_left: int | None) -> None:
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.swallows = False
        self._bytes_left = bytes_left

    def forward(self, writer: asyncio.StreamWriter | None, data: bytes) -> bool:
        """Send ``data`` on, or as much of it as is allowed before the connection is cut; False once it is."""
        if writer is None:
            return False
        if self._bytes_left is not None:
            data, is_last = data[: self._bytes_left], len(data) >= self._bytes_left
            self._bytes_left -= len(data)
            writer.write(data)
            if is_last:
                self.end(reset=True)
                return False
            return True
        writer.write(data)
        return True

    def end(self, *, reset: bool) -> None:
        """Close both sides: the client's by a reset if wanted, the server's in good order."""
        if reset:
            peer = self.client.get_extra_info("socket")
            if peer is not None:
                # Closing a socket that does not linger sends a reset.
                with contextlib.suppress(OSError):
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.client.transport.abort()
        else:
            self.client.close()
        if self.server is not None:
            self.server.close()


async def _message(reader: asyncio.StreamReader, *, typed: bool) -> bytes:
    """One whole message from a client; the first one has no type byte."""
    try:
        head = await reader.readexactly(_LENGTH_BYTES + typed)
        (length,) = struct.unpack("!I", head[-_LENGTH_BYTES:])
        return head + await reader.readexactly(length - _LENGTH_BYTES)
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError from error


def _asks_for_encryption(message: bytes) -> bool:
    return struct.unpack("!I", message[4:8])[0] in _CODES_THAT_ASK_FOR_ENCRYPTION


def _is_commit(message: bytes) -> bool:
    return message[:1] == b"Q" and message[5:].rstrip(b"\x00; ").upper() == b"COMMIT"
