"""Private directories of running servers: short enough for sockets, locked while in use, swept when abandoned.

A directory's lock is inherited by the server itself. Whoever can take it therefore knows that nothing of the server
lives any more, without guessing from process ids.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

from dotmac.database.embedded._identity import server_identity
from dotmac.database.errors import EmbeddedServerError

LOCK_NAME = "in-use.lock"

_PREFIX = "dotmac-db-"
_MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp makes what is in it private
_PLENTY_BYTES = 2 << 30
# sun_path holds 104 bytes on macOS and 108 on Linux, and "s/.s.PGSQL.65535" follows.
_LONGEST_BASE = 60
# Their makers may stand between making the directory, its lock file, and taking the lock.
_NEWEST_SWEPT_SECONDS = 2
_UNLOCKED_GRACE_SECONDS = 3600


class DirectoryLock:
    """An exclusive lock on a directory, held until `release` and by every process that inherits `descriptor`."""

    def __init__(self, directory: Path, *, create: bool = True) -> None:
        flags = os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        self.descriptor = os.open(directory / LOCK_NAME, flags, 0o600)

    def acquire(self, *, blocking: bool) -> bool:
        """Take the lock; False when another holds it and ``blocking`` is off."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Give up our hold; processes that inherited the descriptor keep theirs."""
        with contextlib.suppress(OSError):
            os.close(self.descriptor)
        self.descriptor = -1


def runtime_base() -> Path:
    """The directory private directories are made in: in memory where there is plenty, else a temporary one.

    A PostgreSQL is 1,300 files. ext4 takes half a second and more to make them where as many were deleted moments ago
    (it does not reuse fresh inodes), which is what test suites do all day; memory takes 0.03 s. ``TMPDIR`` overrides.
    """
    if "TMPDIR" not in os.environ and _memory_is_plenty():
        return _MEMORY
    base = Path(tempfile.gettempdir()).resolve()
    return base if len(os.fsencode(base)) <= _LONGEST_BASE else Path("/tmp").resolve()  # noqa: S108 - mkdtemp makes what is in it private


def _memory_is_plenty() -> bool:
    # Containers give 64 MB of it, and may forbid running programs copied there for another user.
    if server_identity().user is not None or not os.access(_MEMORY, os.W_OK):
        return False
    try:
        space = os.statvfs(_MEMORY)
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return False
    available = next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), 0)
    return space.f_bavail * space.f_frsize >= _PLENTY_BYTES and available >= 2 * _PLENTY_BYTES


def make_runtime_directory() -> tuple[Path, DirectoryLock]:
    """A new private directory and its lock, taken; directories that crashed servers left are removed first.

    Raises:
        EmbeddedServerError: The temporary directory cannot be written.
    """
    base = runtime_base()
    for place in {base, _MEMORY, Path(tempfile.gettempdir())}:
        _sweep(place)
    try:
        directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        lock = DirectoryLock(directory)
    except OSError as error:
        raise EmbeddedServerError(
            f"No directory for the server could be made in {base}: {error.strerror}. Make room there, or point "
            f"TMPDIR to a directory you may write."
        ) from error
    lock.acquire(blocking=True)
    return directory, lock


def remove_directory(directory: Path) -> None:
    """Delete ``directory``, whatever is left in it."""
    shutil.rmtree(directory, ignore_errors=True)


def _sweep(base: Path) -> None:
    identity = server_identity()
    owners = {os.getuid(), identity.user[0]} if identity.user else {os.getuid()}
    for directory in base.glob(_PREFIX + "*"):
        with contextlib.suppress(OSError):
            _sweep_one(directory, owners)


def _sweep_one(directory: Path, owners: set[int]) -> None:
    status = directory.lstat()
    age = time.time() - status.st_mtime
    if status.st_uid not in owners or not stat.S_ISDIR(status.st_mode) or age < _NEWEST_SWEPT_SECONDS:
        return
    try:
        lock = DirectoryLock(directory, create=False)
    except FileNotFoundError:
        if age > _UNLOCKED_GRACE_SECONDS:
            remove_directory(directory)
        return
    try:
        if lock.acquire(blocking=False):
            remove_directory(directory)
    finally:
        lock.release()
