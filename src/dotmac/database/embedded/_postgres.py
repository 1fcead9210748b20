"""A real PostgreSQL for tests and laptops: started in well under a second, private, and never left behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from dotmac.database.embedded import _failures
from dotmac.database.embedded._address import PostgresAddress, Role
from dotmac.database.embedded._binaries import find_postgres
from dotmac.database.embedded._credentials import Credentials, scram_verifier
from dotmac.database.embedded._directories import remove_directory
from dotmac.database.embedded._server import EmbeddedServer
from dotmac.database.embedded._template import CONFIGURATION, copy_template
from dotmac.database.embedded._wire import WireConnection, WireError, quote_literal
from dotmac.database.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dotmac.database.embedded._binaries import PostgresBinaries
    from dotmac.database.embedded._identity import Identity

Version = Literal["18", "17", "system"]

_CANNOT_CONNECT_NOW = "57P03"

_SETTINGS = {
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    # Dynamic shared memory in files goes away with the directory, even after a SIGKILL.
    "dynamic_shared_memory_type": "mmap",
    # Statements may hold data or passwords, and logs outlive them.
    "log_min_error_statement": "panic",
    "logging_collector": "off",
}
# synchronous_commit stays on: without fsync it costs next to nothing, and a killed server keeps what was committed.
_CARELESS_SETTINGS = {"fsync": "off", "full_page_writes": "off"}


class EmbeddedPostgres(EmbeddedServer):
    """A PostgreSQL server of your own, as a context manager or with `start` and `stop`.

    It listens on a private Unix socket and on 127.0.0.1, where roles need their random passwords. Role ``app`` owns the
    database ``app`` and is neither superuser nor exempt from row-level security. The server ends with this process,
    however that ends; a throwaway one takes its files with it.

    Args:
        version: ``"18"`` or ``"17"`` (from wheels), or ``"system"`` for the newest one installed.
        directory: Where its data stays between runs; None for a throwaway server.
        port: TCP port; None for a free one, and the same one as last time for a persistent server if it is still free.
        durable: Whether commits survive a power cut (fsync); by default only with ``directory``.
        settings: Server settings, such as ``{"max_connections": "50"}``.
        bin_dir: Directory of ``postgres`` and ``initdb``, instead of ``version``.
        owner_pid: Process that the server must not outlive; by default this one.

    Example:
        >>> with EmbeddedPostgres() as server:  # doctest: +SKIP
        ...     server.url()
        'postgresql+asyncpg://app:…@127.0.0.1:41234/app'
    """

    name: ClassVar[str] = "PostgreSQL"

    def __init__(
        self,
        version: Version = "18",
        *,
        directory: Path | None = None,
        port: int | None = None,
        durable: bool | None = None,
        settings: Mapping[str, str] | None = None,
        bin_dir: Path | None = None,
        owner_pid: int | None = None,
    ) -> None:
        super().__init__(directory=directory, port=port, durable=durable, owner_pid=owner_pid)
        self._version = version
        self._settings = dict(settings or {})
        self._bin_dir = bin_dir
        self._address: PostgresAddress | None = None

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1."""
        return self.address.port

    @property
    def address(self) -> PostgresAddress:
        """Where it is reached; can be handed to other processes.

        Raises:
            EmbeddedServerError: The server was not started.
        """
        if self._process is None or self._address is None:
            raise self._not_running()
        return self._address

    def url(self, database: str = "app", *, driver: str | None = "asyncpg", role: Role = "app") -> str:
        """See `PostgresAddress.url`."""
        return self.address.url(database, driver=driver, role=role)

    def create_database(self, name: str, *, template: str | None = None, owner: str = "app") -> None:
        """See `PostgresAddress.create_database`."""
        self.address.create_database(name, template=template, owner=owner)

    def drop_database(self, name: str) -> None:
        """See `PostgresAddress.drop_database`."""
        self.address.drop_database(name)

    def detach(self) -> PostgresAddress:
        """Leave the server to ``owner_pid``, and return its address; `stop` no longer stops it.

        Raises:
            ValueError: No ``owner_pid`` was given.
        """
        if self._owner_pid is None:
            raise ValueError("detach() needs owner_pid=…: somebody must end the server.")
        address = self.address
        self._release_to_owner()
        return address

    @property
    def _data(self) -> Path:
        return self._home / "data"

    def _prepare(self, identity: Identity) -> None:
        binaries = find_postgres(self._version, self._bin_dir)
        if not self._data.exists():
            # A half-copied directory must never look like a whole one.
            staging = self._home / "data.new"
            remove_directory(staging)
            copy_template(binaries, identity, staging, durable=self._durable)
            staging.rename(self._data)
        _check_version(self._data, binaries)
        _remove_stale_pid_file(self._data, self._home)

    def _command(self, port: int, identity: Identity) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": str(self._sockets),
            "unix_socket_permissions": "0700",
            **_SETTINGS,
            **({} if self._durable else _CARELESS_SETTINGS),
            **self._settings,
        }
        lines = [f"{name} = {quote_literal(value)}\n" for name, value in settings.items()]
        configuration = self._data / CONFIGURATION
        configuration.write_text("".join(lines))
        identity.give(configuration)
        bin_dir = find_postgres(self._version, self._bin_dir).bin_dir
        program = identity.reachable_binaries(bin_dir, self._running_directory()) / "postgres"
        return [str(program), "-D", str(self._data)]

    def _answers(self, port: int) -> bool:
        """Set the passwords: that the server accepts them shows that it is ready."""
        process = self._running_process()
        credentials = (
            Credentials()
            if self._directory is None
            else Credentials.load_or_create(self._directory / "credentials.json")
        )
        address = PostgresAddress(self._sockets, port, process.supervisor_pid, credentials)
        try:
            with WireConnection(address.socket_path) as connection:
                for role, password in (("postgres", credentials.admin), ("app", credentials.app)):
                    connection.execute(
                        f"ALTER ROLE {role} PASSWORD {quote_literal(scram_verifier(password))}"
                    )
        except WireError as error:
            if error.sqlstate == _CANNOT_CONNECT_NOW:
                return False
            raise EmbeddedServerError(
                f"PostgreSQL in {self._home} refused the passwords of its roles: {error}."
            ) from error
        except OSError:
            return False
        self._address = address
        return True

    def _stop_plan(self) -> list[tuple[str, float]]:
        at_once = [("QUIT", 5.0), ("KILL", 5.0)]
        # Fast shutdown writes a checkpoint, which nobody will read in a throwaway.
        return at_once if self._directory is None else [("INT", 20.0), *at_once]


def _check_version(data: Path, binaries: PostgresBinaries) -> None:
    version_file = data / "PG_VERSION"
    if not version_file.exists():
        raise EmbeddedServerError(
            f"{data} is not a PostgreSQL data directory (no PG_VERSION). Move it away, or choose another directory."
        )
    found = version_file.read_text().strip()
    if found != str(binaries.major):
        raise EmbeddedServerError(
            f"{data} was made by PostgreSQL {found}, and this is {binaries.version}. Use version {found}, or another "
            f"directory, and move the data over with pg_dump."
        )


def _remove_stale_pid_file(data: Path, home: Path) -> None:
    pid_file = data / "postmaster.pid"
    if not pid_file.exists():
        return
    # Nothing of ours lives, since we hold the lock; but a server may have been started here by hand.
    if _is_postmaster_of(_first_number(pid_file), data):
        raise _failures.DirectoryInUseError(home)
    pid_file.unlink()


def _first_number(path: Path) -> int:
    try:
        return int(path.read_text().splitlines()[0])
    except (OSError, ValueError, IndexError):
        return 0


def _is_postmaster_of(pid: int, data: Path) -> bool:
    """Whether ``pid`` is a server on ``data``; process ids are reused, so that one is alive proves nothing."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # Another user's process may not be looked into; a server of theirs could not have written here.
        return False
    if not Path("/proc/self/cwd").exists():
        return True
    try:
        # A postmaster works in its data directory.
        return Path(f"/proc/{pid}/cwd").samefile(data)
    except OSError:
        return False
