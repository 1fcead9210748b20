"""A tiny guardian process: runs one server as an ordinary user and never lets it outlive its owner.

Run as ``python -I -S _supervisor.py`` with one line of JSON on standard input; it imports nothing of this library.
The rest of standard input is the control channel: a line, or its end, means stop. The owner's death is noticed
through a pidfd, so that neither SIGKILL nor a forked child that still holds the pipe leaves a server behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1
_OWNER_POLL_SECONDS = 0.5
_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


def _libc() -> Callable[..., None]:
    """A way to call the C library that raises OSError; ctypes itself is loaded here and not when it is called."""
    import ctypes  # noqa: PLC0415 - only Linux needs it, and it costs 10 ms

    library = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: int) -> None:
        if getattr(library, name)(*arguments) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")

    return call


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123 - pathlib costs start-up time
        file.write(text)


def enter_namespace(inner_uid: int, inner_gid: int) -> None:
    """Continue as ``inner_uid`` in a user namespace of our own: files stay ours, and the server does not see root."""
    outer_uid, outer_gid = os.getuid(), os.getgid()
    _libc()("unshare", _CLONE_NEWUSER)
    with contextlib.suppress(FileNotFoundError):
        _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{inner_uid} {outer_uid} 1")
    _write("/proc/self/gid_map", f"{inner_gid} {outer_gid} 1")


def _die_with_parent(signal_number: int) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    supervisor = os.getpid()
    # Loaded now: the user that the child has become by then may not be allowed to read Python's own files.
    call = _libc()

    def arrange() -> None:
        call("prctl", _PR_SET_PDEATHSIG, signal_number)
        if os.getppid() != supervisor:
            os._exit(1)

    return arrange


class _Owner:
    """The process on whose behalf the server runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.descriptor: int | None = None
        self._gone = False
        if hasattr(os, "pidfd_open"):
            try:
                self.descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                self._gone = True
            except OSError:
                pass

    def is_gone(self) -> bool:
        if self._gone or self.descriptor is not None:
            return self._gone
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


def _report(**fields: Any) -> None:
    with contextlib.suppress(OSError):
        os.write(1, (json.dumps(fields) + "\n").encode())


def _spawn(task: dict[str, Any]) -> subprocess.Popen[bytes]:
    log = os.open(task["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    source = os.open(task["stdin"] or os.devnull, os.O_RDONLY)
    uid, gid = task["user"] or (None, None)
    try:
        return subprocess.Popen(  # noqa: S603 - argv comes from our own parent process
            task["argv"],
            env=task["env"],
            cwd=task["cwd"],
            stdin=source,
            stdout=log,
            stderr=log,
            pass_fds=task["locks"],
            # Its own session: signals meant for the owner's terminal or group never reach the server.
            start_new_session=True,
            preexec_fn=_die_with_parent(_signal(task["stop"][0][0])),  # noqa: PLW1509 - one thread here
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
        )
    finally:
        os.close(log)
        os.close(source)


def _signal(name: str) -> signal.Signals:
    return signal.Signals["SIG" + name]


def _wait(child: subprocess.Popen[bytes], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while child.poll() is None:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        # SIGCHLD lands in the wakeup pipe and ends the wait early.
        select.select([_wakeup_read], [], [], min(left, 0.2))
        _drain(_wakeup_read)
    return True


def _stop(child: subprocess.Popen[bytes], plan: list[tuple[str, float]]) -> None:
    for name, seconds in plan:
        if child.poll() is not None:
            return
        child.send_signal(_signal(name))
        if _wait(child, seconds):
            return


def _drain(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except BlockingIOError:
        return b"."


def _first_event(child: subprocess.Popen[bytes], owner: _Owner, *, hold_control: bool) -> str:
    """``"exit"`` when the server ended by itself, ``"stop"`` when it has to end now."""
    watched = [_wakeup_read]
    if hold_control:
        watched.append(0)
    if owner.descriptor is not None:
        watched.append(owner.descriptor)
    timeout = None if owner.descriptor is not None else _OWNER_POLL_SECONDS
    while True:
        if child.poll() is not None:
            return "exit"
        if owner.is_gone():
            return "stop"
        ready = select.select(watched, [], [], timeout)[0]
        if _wakeup_read in ready and set(_drain(_wakeup_read)) & _STOP_SIGNALS:
            return "stop"
        if set(ready) - {_wakeup_read}:
            return "stop"


def _read_task() -> dict[str, Any]:
    # Read bytes one by one: a buffered read could swallow the first control line.
    line = bytearray()
    while (byte := os.read(0, 1)) not in {b"", b"\n"}:
        line += byte
    task: dict[str, Any] = json.loads(line)
    return task


def _remove(paths: list[str]) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


def main() -> int:
    """Run the task that standard input describes; the exit status is the server's own."""
    task = _read_task()
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda *_: None)
    owner = _Owner(task["owner"])
    try:
        if task["namespace"] is not None:
            enter_namespace(*task["namespace"])
        child = _spawn(task)
    except (OSError, subprocess.SubprocessError) as error:
        _report(error=str(error))
        return 1
    _report(pid=child.pid)
    if _first_event(child, owner, hold_control=task["hold_control"]) == "stop":
        _stop(child, task["stop"])
        _remove(task["remove"])
    _report(exit=child.returncode)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--probe"]:
        # Can this system give us a user namespace? Containers often forbid it.
        try:
            enter_namespace(int(sys.argv[2]), int(sys.argv[3]))
        except OSError:
            sys.exit(1)
        sys.exit(0)
    os.umask(0o077)
    _wakeup_read, _wakeup_write = os.pipe()
    os.set_blocking(_wakeup_read, False)
    os.set_blocking(_wakeup_write, False)
    signal.set_wakeup_fd(_wakeup_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    sys.exit(main())
