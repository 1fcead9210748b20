"""The taskboard's API on a loopback port of this process, in a thread with an event loop of its own."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import uvicorn

from dotmac.database.errors import EmbeddedServerError

if TYPE_CHECKING:
    from types import TracebackType

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.01


class ApiServer:
    """A context manager: a port is taken inside the block, and after `serve` the application answers at ``url``.

    Raises:
        EmbeddedServerError: The port is taken, or the application does not start.
    """

    name = "The API"

    def __init__(self, port: int | None) -> None:
        # With its protocol named: asyncio only then turns off Nagle's delays, 40 ms an answer.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind(("127.0.0.1", port or 0))
        except OSError:
            self._socket.close()
            raise EmbeddedServerError(
                f"Port {port} is taken. Choose another one with --port, or leave it out."
            ) from None
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """True until the server ended, for whatever reason."""
        return self._thread is not None and self._thread.is_alive()

    def serve(self, app: Any) -> None:
        """Return once ``app`` answers."""
        config = uvicorn.Config(app, log_config=None, log_level="critical", access_log=False, lifespan="on")
        server = self._server = uvicorn.Server(config)
        # In a thread uvicorn leaves signals alone: Ctrl-C stays ours.
        self._thread = threading.Thread(
            target=server.run, kwargs={"sockets": [self._socket]}, name="taskboard-api", daemon=True
        )
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not server.started:
            if not self.is_running or time.monotonic() > deadline:
                raise EmbeddedServerError("The API did not start.")
            time.sleep(_POLL_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(_STOP_SECONDS)
        self._socket.close()
