"""What the processes of one test run share: a private directory where the first to need something makes it, once.

The process that pytest was started in owns the directory and everything made there; xdist workers only use it.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dotmac.database.embedded._directories import DirectoryLock, make_runtime_directory, remove_directory

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class TestRun:
    """One run of pytest, in whichever of its processes this is.

    Attributes:
        directory: The private directory of the run.
        owner_pid: The process whose end is the end of the run.
        worker: Name of this worker; ``"main"`` without xdist.
        lock: Held in the owner for as long as the run lasts.
    """

    __test__ = False

    directory: Path
    owner_pid: int
    worker: str = "main"
    lock: DirectoryLock | None = None

    @classmethod
    def begin(cls) -> TestRun:
        """A new run, owned by this process."""
        directory, lock = make_runtime_directory()
        (directory / "run").write_text(secrets.token_hex(4))
        return cls(directory, os.getpid(), lock=lock)

    @classmethod
    def join(cls, workerinput: dict[str, Any]) -> TestRun:
        """The run that an xdist controller told this worker about."""
        shared = workerinput["dotmac_test_run"]
        return cls(Path(shared["directory"]), shared["owner_pid"], workerinput["workerid"])

    def invitation(self) -> dict[str, Any]:
        """What `join` needs, in types that can be sent to a worker."""
        return {"directory": str(self.directory), "owner_pid": self.owner_pid}

    @property
    def prefix(self) -> str:
        """Start of the names of all databases and roles of this run."""
        return f"dotmac_{(self.directory / 'run').read_text()}"

    @property
    def worker_number(self) -> int:
        """0, 1, 2… for the workers of xdist; 0 without it."""
        digits = self.worker.removeprefix("gw")
        return int(digits) if digits.isdigit() else 0

    def once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What ``make`` returned in the first process that asked for ``name``; the others wait for it."""
        with (self.directory / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            made = self.made(name)
            if made is None:
                made = make()
                path = self.directory / f"{name}.json"
                path.touch(mode=0o600)
                path.write_text(json.dumps(made))
            return made

    def made(self, name: str) -> dict[str, Any] | None:
        """What `once` made under ``name``, or None."""
        try:
            made: dict[str, Any] = json.loads((self.directory / f"{name}.json").read_text())
        except FileNotFoundError:
            return None
        return made

    def end(self) -> None:
        """Remove the directory."""
        remove_directory(self.directory)
        if self.lock is not None:
            self.lock.release()
