"""One supervised server process, seen from its owner: start it, ask it to stop, notice that it died.

The supervisor (`_supervisor`) does the watching; this side only speaks to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dotmac.database.embedded import _supervisor
from dotmac.database.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dotmac.database.embedded._identity import Identity


_STOP_GRACE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Task:
    """What to run and how to end it.

    Attributes:
        argv: The command; it must hold no secret, since every user of the machine can read it.
        cwd: Its working directory.
        log: File that its output is appended to.
        stop: Signals to stop it with, each with the seconds to wait before the next.
        stdin: File it reads; nothing when None.
        remove: Directories to delete once it was stopped.
        locks: Open descriptors it inherits, so that their locks are held as long as any part of it lives.
        owner: Process it must not outlive; this process when None.
    """

    argv: Sequence[str]
    cwd: Path
    log: Path
    stop: Sequence[tuple[str, float]] = (("TERM", 10.0), ("KILL", 5.0))
    stdin: Path | None = None
    remove: Sequence[Path] = ()
    locks: Sequence[int] = field(default=())
    owner: int | None = None


class SupervisedProcess:
    """A server and its supervisor, started by the constructor.

    Raises:
        EmbeddedServerError: The supervisor or the command could not be started.
    """

    def __init__(self, task: Task, identity: Identity) -> None:
        self._log = task.log
        self._started_by = os.getpid()
        self._supervisor = _launch(task)
        message = json.dumps(
            {
                "argv": list(task.argv),
                "env": _environment(),
                "cwd": str(task.cwd),
                "log": str(task.log),
                "stdin": None if task.stdin is None else str(task.stdin),
                "stop": [list(step) for step in task.stop],
                "remove": [str(path) for path in task.remove],
                "locks": list(task.locks),
                "owner": task.owner or os.getpid(),
                "hold_control": task.owner is None,
                "namespace": identity.namespace,
                "user": identity.user,
            }
        )
        assert self._supervisor.stdin is not None  # noqa: S101 - Popen was given PIPE
        self._supervisor.stdin.write(message.encode() + b"\n")
        self._supervisor.stdin.flush()
        report = self._read()
        if "pid" not in report:
            self._close()
            raise EmbeddedServerError(
                f"{Path(task.argv[0]).name} could not be started: {report.get('error', 'its supervisor ended')}. "
                f"Check that {task.argv[0]} runs on this machine."
            )
        self.pid: int = report["pid"]

    @property
    def supervisor_pid(self) -> int:
        """The supervisor's process id; SIGTERM makes it stop the server and clean up."""
        return self._supervisor.pid

    @property
    def is_running(self) -> bool:
        """True until the server has ended, for whatever reason."""
        if os.getpid() != self._started_by:
            # In a fork of the owner the supervisor is no child, and cannot be waited for.
            return _is_alive(self._supervisor.pid)
        return self._supervisor.poll() is None

    def wait(self) -> int:
        """Wait until the command ends by itself; its exit status."""
        status: int = self._read().get("exit", 1)
        self._close()
        return status

    def stop(self) -> None:
        """Ask the supervisor to stop the server, and wait until both are gone."""
        if os.getpid() != self._started_by:
            return
        if self._supervisor.poll() is None:
            with contextlib.suppress(OSError):
                self._supervisor.send_signal(signal.SIGTERM)
        self._close()

    def kill(self) -> None:
        """Kill the server at once, with all its children; nothing is flushed, files stay where they are."""
        children = _children(self.pid)
        for pid in (self.pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Closing the pipe before the supervisor saw the death would tell it to clean up.
        self._read()
        self._close()

    def log_tail(self, lines: int = 20) -> str:
        """The last lines the server wrote."""
        try:
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def detach(self) -> None:
        """Let go of the pipes: from now on the server's life is bound to ``task.owner`` alone."""
        for pipe in (self._supervisor.stdin, self._supervisor.stdout):
            if pipe is not None:
                pipe.close()
        # It outlives this process on purpose; without this, Popen would warn about it.
        self._supervisor.returncode = 0

    def _read(self) -> dict[str, Any]:
        assert self._supervisor.stdout is not None  # noqa: S101 - Popen was given PIPE
        line = self._supervisor.stdout.readline()
        report: dict[str, Any] = json.loads(line) if line else {}
        return report

    def _close(self) -> None:
        if self._supervisor.stdin is not None:
            with contextlib.suppress(OSError):
                self._supervisor.stdin.close()
        try:
            self._supervisor.wait(_STOP_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()
        if self._supervisor.stdout is not None:
            self._supervisor.stdout.close()


def _launch(task: Task) -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise EmbeddedServerError(
            "This Python does not know its own executable (sys.executable is empty), which the embedded servers "
            "need for their supervisor. Run under an ordinary Python, or pass the URL of a server that runs already."
        )
    try:
        return subprocess.Popen(  # noqa: S603 - our own script, under our own interpreter
            [sys.executable, "-I", "-S", str(_supervisor.__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            pass_fds=tuple(task.locks),
            start_new_session=True,
        )
    except OSError as error:
        raise EmbeddedServerError(
            f"The supervisor of the embedded servers could not be started: {error}."
        ) from error


def _environment() -> dict[str, str]:
    # Nothing of ours leaks in: PGDATA, PGOPTIONS or a locale would change what the server does.
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    return {"LC_ALL": "C", "TZ": "UTC", **kept}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _children(pid: int) -> list[int]:
    """Direct children of ``pid``."""
    if Path("/proc/self/stat").exists():
        pairs = [_proc_parent(folder) for folder in Path("/proc").glob("[0-9]*")]
    else:
        command = ["ps", "-A", "-o", "pid=,ppid="]
        listing = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a constant
        pairs = [(int(child), int(parent)) for child, parent in map(str.split, listing.stdout.splitlines())]
    return [child for child, parent in pairs if parent == pid]


def _proc_parent(folder: Path) -> tuple[int, int]:
    try:
        # The command's name stands in parentheses and may itself hold blanks and parentheses.
        fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return int(folder.name), 0
    return int(folder.name), int(fields[1])
