"""Why a server did not start, in one line that says what to do: from its log or from an operating system error."""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

from dotmac.database.errors import EmbeddedServerError

if TYPE_CHECKING:
    from pathlib import Path

_PORT_TAKEN = re.compile(
    r"Address already in use|could not bind .* address|Failed listening on port", re.IGNORECASE
)
_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large|could not extend file")
_CONFIGURATION = re.compile(r"^.*?\bLOG:\s+(.*)$", re.MULTILINE)
_REASON = re.compile(
    r"^.*?\b(?:FATAL|PANIC|ERROR):\s+(.*)$|^[^:\n]*: error: (.*)$|^# (?!oO0)(.*)$", re.MULTILINE
)


class DirectoryInUseError(EmbeddedServerError):
    """A live server works in the directory."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"{directory} is in use by a running server. Stop that one first, or choose another directory."
        )


class PortTakenError(EmbeddedServerError):
    """Another program listens on the port."""

    def __init__(self, port: int) -> None:
        super().__init__(
            f"Port {port} on 127.0.0.1 is taken by another program. Choose another port, or leave it out for a free one."
        )


def from_log(server: str, log: str, *, port: int, directory: Path) -> EmbeddedServerError:
    """The error for a ``server`` that wrote ``log`` and ended."""
    if _PORT_TAKEN.search(log):
        return PortTakenError(port)
    if _DISK_FULL.search(log):
        return disk_full(directory)
    reasons = [next(filter(None, groups)) for groups in _REASON.findall(log)]
    last_line = (log.strip().splitlines() or ["it wrote nothing"])[-1]
    reason = (reasons or [last_line])[-1].strip().rstrip(".")
    if reason.endswith("contains errors"):
        # PostgreSQL logs what is wrong with its configuration before it gives up.
        reason = ", ".join(match.group(1) for match in _CONFIGURATION.finditer(log)) or reason
    return EmbeddedServerError(f"{server} did not start in {directory}: {reason}.")


def from_os_error(error: OSError, directory: Path) -> EmbeddedServerError:
    """The error for a failed operation on files in ``directory``."""
    # shutil.copytree gathers the errors of single files as text.
    text = str(error)
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} or _DISK_FULL.search(text):
        return disk_full(directory)
    reason = os.strerror(error.errno) if error.errno else text
    return EmbeddedServerError(
        f"{error.filename or directory} cannot be used for the server: {reason}. Choose a directory that this user "
        f"may write."
    )


def disk_full(directory: Path) -> EmbeddedServerError:
    """The error for a disk without room."""
    return EmbeddedServerError(
        f"The disk that holds {directory} is full. Make room, or choose another place (TMPDIR, directory=…); an empty "
        f"PostgreSQL takes about 50 MB."
    )
