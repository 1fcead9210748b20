"""What every embedded server has in common: its directories and locks, its process, and its end."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from dotmac.database.embedded import _failures
from dotmac.database.embedded._directories import (
    DirectoryLock,
    make_runtime_directory,
    remove_directory,
)
from dotmac.database.embedded._identity import server_identity
from dotmac.database.embedded._process import SupervisedProcess, Task
from dotmac.database.errors import EmbeddedServerError

if TYPE_CHECKING:
    from types import TracebackType

    from dotmac.database.embedded._identity import Identity

_START_TIMEOUT_SECONDS = 60.0
_POLL_SECONDS = 0.01
_FREE_PORT_ATTEMPTS = 5


class EmbeddedServer(ABC):
    """A server process of ours with a private directory; subclasses say what to run and when it is ready."""

    name: ClassVar[str]

    def __init__(
        self, *, directory: Path | None, port: int | None, durable: bool | None, owner_pid: int | None
    ) -> None:
        self._directory = None if directory is None else Path(directory).absolute()
        self._wanted_port = port
        self._durable = directory is not None if durable is None else durable
        self._owner_pid = owner_pid
        self._runtime: Path | None = None
        self._locks: list[DirectoryLock] = []
        self._process: SupervisedProcess | None = None
        self._started_by = 0

    def start(self) -> Self:
        """Start the server and return once it answers; does nothing when it runs already.

        Raises:
            EmbeddedServerError: It cannot be started; the message says why and what to do.
        """
        if self.is_running:
            return self
        try:
            self._open_directories()
            self._launch()
        except OSError as error:
            home = self._home
            self.stop()
            raise _failures.from_os_error(error, home) from error
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server and, if it is a throwaway, delete its files; does nothing when it was stopped already."""
        # A fork of the owner runs its exit handlers too, and must not stop the owner's server.
        if self._runtime is None or os.getpid() != self._started_by:
            return
        if self._process is not None:
            self._process.stop()
        remove_directory(self._runtime)
        self._let_go()

    def kill(self) -> None:
        """Kill every process of the server at once, as a crash would; `start` recovers it with its data."""
        if self._process is not None:
            self._process.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = f"pid={self._process.pid}" if self._process is not None and self.is_running else "stopped"
        return (
            f"{type(self).__name__}(directory={str(self._directory) if self._directory else None!r}, {state})"
        )

    @property
    def is_running(self) -> bool:
        """True from `start` until the server ended, for whatever reason."""
        return self._process is not None and self._process.is_running

    @property
    def pid(self) -> int:
        """Process id of the server.

        Raises:
            EmbeddedServerError: It was not started.
        """
        return self._running_process().pid

    @abstractmethod
    def _prepare(self, identity: Identity) -> None:
        """Put files in place that the server starts from."""

    @abstractmethod
    def _command(self, port: int, identity: Identity) -> list[str]:
        """Configure the server for ``port`` and return the command that runs it."""

    @abstractmethod
    def _answers(self, port: int) -> bool:
        """Whether the server is ready; sets it up when it is."""

    @abstractmethod
    def _stop_plan(self) -> list[tuple[str, float]]:
        """Signals that stop the server, each with the seconds to wait before the next."""

    @property
    def _home(self) -> Path:
        return self._directory or self._runtime or Path()

    @property
    def _sockets(self) -> Path:
        return self._running_directory() / "s"

    @property
    def _log(self) -> Path:
        return self._home / "server.log"

    def _running_directory(self) -> Path:
        if self._runtime is None:
            raise self._not_running()
        return self._runtime

    def _running_process(self) -> SupervisedProcess:
        if self._process is None:
            raise self._not_running()
        return self._process

    def _not_running(self) -> EmbeddedServerError:
        return EmbeddedServerError(f"The embedded {self.name} is not running: call start() first.")

    def _release_to_owner(self) -> None:
        """Leave the server to ``owner_pid``: `stop` no longer stops it."""
        self._running_process().detach()
        self._let_go()

    def _let_go(self) -> None:
        atexit.unregister(self.stop)
        for lock in self._locks:
            lock.release()
        self._process = self._runtime = None
        self._locks = []

    def _open_directories(self) -> None:
        identity = server_identity()
        if self._runtime is None:
            self._started_by = os.getpid()
            self._runtime, lock = make_runtime_directory()
            self._locks = [lock]
            atexit.register(self.stop)
            if self._directory is not None:
                self._lock_directory(self._directory)
        self._sockets.mkdir(mode=0o700, exist_ok=True)
        self._prepare(identity)
        identity.give(self._runtime)
        if self._directory is None:
            return
        identity.give(self._directory)
        if not identity.can_enter(self._directory):
            raise EmbeddedServerError(
                f"{self.name} runs as another user here, who may not enter {self._directory}. Choose a directory "
                f"outside of private ones, such as one in /var/tmp."
            )

    def _lock_directory(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = DirectoryLock(directory)
        self._locks.append(lock)
        if not lock.acquire(blocking=False):
            raise _failures.DirectoryInUseError(directory)

    def _launch(self) -> None:
        for attempt in range(_FREE_PORT_ATTEMPTS):
            port = self._choose_port(attempt)
            try:
                self._launch_on(port)
            except _failures.PortTakenError:
                # Somebody took the free port between our look and the server's bind.
                if self._wanted_port or attempt == _FREE_PORT_ATTEMPTS - 1:
                    raise
            else:
                (self._home / "port").write_text(str(port))
                return

    def _choose_port(self, attempt: int) -> int:
        """The port that was asked for, else the last run's, so that URLs stay the same, else a free one."""
        if self._wanted_port is not None:
            return self._wanted_port
        if attempt == 0:
            with contextlib.suppress(OSError, ValueError):
                return int((self._home / "port").read_text())
        return free_port()

    def _launch_on(self, port: int) -> None:
        identity = server_identity()
        command = self._command(port, identity)
        self._log.unlink(missing_ok=True)
        self._process = SupervisedProcess(
            Task(
                argv=command,
                cwd=self._home,
                log=self._log,
                stop=self._stop_plan(),
                remove=[self._running_directory()],
                locks=[lock.descriptor for lock in self._locks],
                owner=self._owner_pid,
            ),
            identity,
        )
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while self._process.is_running:
            if self._answers(port):
                return
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"{self.name} did not answer within {_START_TIMEOUT_SECONDS:.0f} s. Its last words: "
                    f"{(self._process.log_tail().splitlines() or ['none'])[-1]}"
                )
            time.sleep(_POLL_SECONDS)
        raise _failures.from_log(self.name, self._process.log_tail(), port=port, directory=self._home)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def shut_down(runtime: Path, supervisor_pid: int) -> None:
    """Stop a server that was left to another process, and wait until it is gone; nothing when it is gone already."""
    try:
        lock = DirectoryLock(runtime, create=False)
    except OSError:
        return
    try:
        # Only a held lock shows that the supervisor lives; its process id alone could be somebody else's by now.
        if not lock.acquire(blocking=False):
            os.kill(supervisor_pid, signal.SIGTERM)
            lock.acquire(blocking=True)
    finally:
        lock.release()
        remove_directory(runtime)
