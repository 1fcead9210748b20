"""As whom a server runs: PostgreSQL refuses root, so root steps down, in a user namespace or to another user.

In a namespace root's files stay readable and writable for the server, which sees itself as an unprivileged user. Where
namespaces are forbidden (many containers), the server runs as ``postgres`` or ``nobody`` and is given its files.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dotmac.database.embedded import _supervisor
from dotmac.database.errors import EmbeddedServerError

_EVERYONE_MAY_ENTER = 0o001


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the server is.

    Attributes:
        namespace: User and group id it sees itself as inside a user namespace, or None.
        user: User and group id it runs as instead of ours, or None.
    """

    namespace: tuple[int, int] | None = None
    user: tuple[int, int] | None = None

    def give(self, path: Path) -> None:
        """Make ``path`` and all below it the server's own; nothing to do unless it runs as another user."""
        if self.user is None:
            return
        os.lchown(path, *self.user)
        for folder, directories, files in os.walk(path):
            for name in (*directories, *files):
                os.lchown(Path(folder, name), *self.user)

    def reachable_binaries(self, bin_dir: Path, scratch: Path) -> Path:
        """``bin_dir``, or a copy of its installation in ``scratch`` where the server's user may not enter it."""
        bin_dir = bin_dir.resolve()
        if self.can_enter(bin_dir):
            return bin_dir
        copy = scratch / "install"
        root, *others = _installation(bin_dir)
        if not copy.exists():
            for folder in (root, *others):
                shutil.copytree(folder, copy / folder.name, symlinks=True)
            self.give(copy)
        return copy / root.name / bin_dir.relative_to(root)

    def can_enter(self, directory: Path) -> bool:
        """True when the server's user can get as far as ``directory``."""
        if self.user is None:
            return True
        folders = (directory, *directory.parents)
        return all(
            folder.stat().st_mode & _EVERYONE_MAY_ENTER or folder.stat().st_uid == self.user[0]
            for folder in folders
            if folder.exists()
        )


def _installation(bin_dir: Path) -> list[Path]:
    """The directories that programs in ``bin_dir`` need; a wheel keeps its libraries beside its package."""
    for package in bin_dir.parents:
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            return [package, libraries]
    return [bin_dir.parent]


@cache
def server_identity() -> Identity:
    """The identity servers run with in this process: our own unless we are root or have no name.

    Raises:
        EmbeddedServerError: We are root, namespaces are forbidden, and there is no other user.
    """
    uid = os.getuid()
    if uid != 0 and _has_name(uid):
        return Identity()
    other = _unprivileged_user()
    inner = other or (65534, 65534)
    if _namespaces_work(inner):
        return Identity(namespace=inner)
    if uid != 0:
        return Identity()
    if other is None:
        raise EmbeddedServerError(
            "PostgreSQL refuses to run as root, this system forbids user namespaces, and /etc/passwd names no other "
            "user. Run as an ordinary user, or add one (useradd --system postgres)."
        )
    return Identity(user=other)


def _has_name(uid: int) -> bool:
    # initdb looks its own user up and fails without an entry, as under `docker run --user 12345`.
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _unprivileged_user() -> tuple[int, int] | None:
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid:
            return entry.pw_uid, entry.pw_gid
    return None


def _namespaces_work(inner: tuple[int, int]) -> bool:
    if sys.platform != "linux":
        return False
    command = [sys.executable, "-I", "-S", str(_supervisor.__file__), "--probe", *map(str, inner)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0  # noqa: S603 - our own script
