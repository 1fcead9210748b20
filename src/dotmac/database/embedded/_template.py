"""A data directory made once per PostgreSQL version and user, then copied: initdb and the roles are paid for once.

It is built aside and renamed into place under a file lock, so that parallel processes neither collide nor see half of it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dotmac.database.embedded import _failures
from dotmac.database.embedded._directories import DirectoryLock, make_runtime_directory, remove_directory
from dotmac.database.embedded._process import SupervisedProcess, Task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dotmac.database.embedded._binaries import PostgresBinaries
    from dotmac.database.embedded._identity import Identity

CONFIGURATION = "dotmac.conf"

# Count up when anything below changes what a data directory holds.
_LAYOUT = 1

_BUILTIN_LOCALE_MAJOR = 17
_PRIVATE_PUBLIC_SCHEMA_MAJOR = 15

# Only the superuser gets in without a password, and only through the socket, whose directory is private.
_HBA = """\
local all postgres trust
local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
"""

_ROLES = """\
CREATE ROLE app LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS
CREATE DATABASE app OWNER app
"""

# What PostgreSQL 15 does by itself: the owner of a database, and nobody else, may create tables in it.
_OLD_PUBLIC_SCHEMA = """\
ALTER SCHEMA public OWNER TO pg_database_owner
REVOKE CREATE ON SCHEMA public FROM PUBLIC
"""


def copy_template(
    binaries: PostgresBinaries, identity: Identity, destination: Path, *, durable: bool
) -> None:
    """Make ``destination`` a data directory with the roles and the database ``app``.

    Args:
        binaries: The installation that makes it.
        identity: As whom its programs run.
        destination: A path that does not exist yet.
        durable: Return only once the copy is on the disk.

    Raises:
        EmbeddedServerError: initdb failed.
        OSError: The copy failed.
    """
    with _cache_directory() as cache:
        template = cache / _key(binaries)
        if not template.exists():
            with _locked(cache):
                if not template.exists():
                    _build(binaries, identity, template)
        shutil.copytree(template, destination, symlinks=True, copy_function=shutil.copyfile)
    destination.chmod(0o700)
    if durable:
        os.sync()


@contextmanager
def _cache_directory() -> Iterator[Path]:
    """The user's cache directory, or a private one for this once where that cannot be written."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    cache = Path(home, "dotmac-database")
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except (OSError, RuntimeError):
        with tempfile.TemporaryDirectory() as private:
            yield Path(private)
        return
    yield cache


def _key(binaries: PostgresBinaries) -> str:
    program = binaries.bin_dir / "postgres"
    status = program.stat()
    origin = f"{program.resolve()}:{status.st_size}:{status.st_mtime_ns}"
    return f"postgres-{binaries.version}-layout{_LAYOUT}-{hashlib.sha256(origin.encode()).hexdigest()[:12]}"


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    lock = DirectoryLock(directory)
    try:
        lock.acquire(blocking=True)
        yield
    finally:
        lock.release()


def _build(binaries: PostgresBinaries, identity: Identity, template: Path) -> None:
    # Built where the server's user can get at it, which a home directory need not be.
    workshop, lock = make_runtime_directory()
    staging = template.with_name(f".{template.name}.{os.getpid()}")
    try:
        identity.give(workshop)
        _initialise(binaries, identity, workshop)
        remove_directory(staging)
        shutil.copytree(workshop / "data", staging, symlinks=True, copy_function=shutil.copyfile)
        # A power cut after the rename must not leave an empty file in a template that looks complete.
        os.sync()
        staging.rename(template)
    finally:
        remove_directory(staging)
        remove_directory(workshop)
        lock.release()


def _initialise(binaries: PostgresBinaries, identity: Identity, workshop: Path) -> None:
    bin_dir = identity.reachable_binaries(binaries.bin_dir, workshop)
    data = workshop / "data"
    # The builtin provider folds Unicode alike on every operating system; before it, the C library has to.
    locale = (
        ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if binaries.major >= _BUILTIN_LOCALE_MAJOR
        else [f"--lc-ctype={_unicode_locale()}"]
    )
    _run(
        [
            str(bin_dir / "initdb"),
            f"--pgdata={data}",
            "--username=postgres",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            *locale,
            "--no-sync",
            "--no-instructions",
        ],
        identity,
        workshop,
    )
    (data / "pg_hba.conf").write_text(_HBA)
    with (data / "postgresql.conf").open("a") as file:
        file.write(f"\ninclude_if_exists = '{CONFIGURATION}'\n")
    if binaries.major < _PRIVATE_PUBLIC_SCHEMA_MAJOR:
        _single_user(bin_dir, identity, workshop, "template1", _OLD_PUBLIC_SCHEMA)
    _single_user(bin_dir, identity, workshop, "postgres", _ROLES)


def _unicode_locale() -> str:
    """A locale of the C library that knows Unicode, as the current process may name it; plain C without one."""
    names = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout.split()  # noqa: S607 - POSIX
    known = {name.lower().replace("-", ""): name for name in names}
    return next((known[name] for name in ("c.utf8", "en_us.utf8") if name in known), "C")


def _single_user(bin_dir: Path, identity: Identity, workshop: Path, database: str, statements: str) -> None:
    script = workshop / "statements.sql"
    script.write_text(statements)
    identity.give(script)
    command = [
        str(bin_dir / "postgres"),
        "--single",
        "-D",
        str(workshop / "data"),
        "-c",
        "fsync=off",
        database,
    ]
    _run(command, identity, workshop, stdin=script)


def _run(argv: list[str], identity: Identity, workshop: Path, *, stdin: Path | None = None) -> None:
    log = workshop / "build.log"
    process = SupervisedProcess(Task(argv=argv, cwd=workshop, log=log, stdin=stdin), identity)
    status = process.wait()
    text = log.read_text(errors="replace")
    # `postgres --single` ends with 0 even when a statement failed.
    if status != 0 or "ERROR:" in text or "FATAL:" in text:
        raise _failures.from_log(argv[0], text, port=0, directory=workshop)
