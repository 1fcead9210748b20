"""A real Valkey for tests and laptops, private to its owner and gone with it."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dotmac.database.embedded._binaries import find_valkey
from dotmac.database.embedded._credentials import Credentials
from dotmac.database.embedded._server import EmbeddedServer, shut_down

if TYPE_CHECKING:
    from dotmac.database.embedded._identity import Identity

_PING = b"AUTH %s\r\nPING\r\n"
_ANSWER_TIMEOUT_SECONDS = 5.0
_DATABASES = 256


@dataclass(frozen=True, slots=True)
class ValkeyAddress:
    """A running Valkey of ours.

    Attributes:
        socket_path: Its Unix socket.
        port: Its port on 127.0.0.1; 0 when it has none.
        supervisor_pid: The process that guards it; SIGTERM stops both.
        password: What clients authenticate with.
    """

    socket_path: Path
    port: int
    supervisor_pid: int
    password: str = field(repr=False)

    def url(self, database: int = 0) -> str:
        """A ``unix://`` URL with its password, for the database of that number (0 to 255)."""
        return f"unix://:{self.password}@{self.socket_path}?db={database}"

    def tcp_url(self, database: int = 0) -> str:
        """A ``redis://`` URL with its password, for the database of that number (0 to 255).

        Raises:
            ValueError: The server was started without a port.
        """
        if not self.port:
            raise ValueError("This Valkey has no TCP port: start it with EmbeddedValkey(tcp=True) or port=….")
        return f"redis://:{self.password}@127.0.0.1:{self.port}/{database}"

    def shut_down(self) -> None:
        """Stop a server that `EmbeddedValkey.detach` left running, and wait until it is gone."""
        shut_down(self.socket_path.parent.parent, self.supervisor_pid)

    def to_json(self) -> dict[str, Any]:
        """Everything another process needs, the password included."""
        return {
            "socket_path": str(self.socket_path),
            "port": self.port,
            "supervisor_pid": self.supervisor_pid,
            "password": self.password,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ValkeyAddress:
        """The inverse of `to_json`."""
        return cls(Path(data["socket_path"]), data["port"], data["supervisor_pid"], data["password"])


class EmbeddedValkey(EmbeddedServer):
    """A Valkey server of your own, as a context manager or with `start` and `stop`.

    It listens on a private Unix socket and, when asked, on 127.0.0.1; both want its random password. It ends with this
    process, however that ends; a throwaway one takes its files with it.

    Args:
        directory: Where its data stays between runs; None for a throwaway server, which saves nothing.
        port: TCP port.
        tcp: Listen on a free TCP port when ``port`` is None.
        durable: Whether every write is appended to a file; by default only with ``directory``.
        owner_pid: Process that the server must not outlive; by default this one.
    """

    name: ClassVar[str] = "Valkey"

    def __init__(
        self,
        directory: Path | None = None,
        *,
        port: int | None = None,
        tcp: bool = False,
        durable: bool | None = None,
        owner_pid: int | None = None,
    ) -> None:
        super().__init__(directory=directory, port=port, durable=durable, owner_pid=owner_pid)
        self._tcp = tcp or port is not None
        self._address: ValkeyAddress | None = None

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1; 0 when it has none."""
        return self.address.port

    @property
    def address(self) -> ValkeyAddress:
        """Where it is reached; can be handed to other processes.

        Raises:
            EmbeddedServerError: The server was not started.
        """
        if self._process is None or self._address is None:
            raise self._not_running()
        return self._address

    @property
    def url(self) -> str:
        """A ``unix://`` URL with its password: keep it out of logs."""
        return self.address.url()

    @property
    def tcp_url(self) -> str:
        """A ``redis://`` URL with its password: keep it out of logs."""
        return self.address.tcp_url()

    def detach(self) -> ValkeyAddress:
        """Leave the server to ``owner_pid``, and return its address; `stop` no longer stops it.

        Raises:
            ValueError: No ``owner_pid`` was given.
        """
        if self._owner_pid is None:
            raise ValueError("detach() needs owner_pid=…: somebody must end the server.")
        address = self.address
        self._release_to_owner()
        return address

    def _prepare(self, identity: Identity) -> None:
        del identity
        find_valkey()
        (self._home / "data").mkdir(mode=0o700, exist_ok=True)

    def _choose_port(self, attempt: int) -> int:
        return super()._choose_port(attempt) if self._tcp else 0

    def _command(self, port: int, identity: Identity) -> list[str]:
        self._credentials = (
            Credentials()
            if self._directory is None
            else Credentials.load_or_create(self._directory / "credentials.json")
        )
        saving = 'appendonly yes\nsave ""\n' if self._durable else 'appendonly no\nsave ""\n'
        configuration = self._home / "valkey.conf"
        # In a file, since every user of the machine can read a command line.
        configuration.touch(mode=0o600)
        configuration.write_text(
            f"bind 127.0.0.1\nport {port}\n"
            f'unixsocket "{self._sockets / "valkey.sock"}"\nunixsocketperm 700\n'
            f"requirepass {self._credentials.app}\n"
            f'dir "{self._home / "data"}"\n'
            f"databases {_DATABASES}\ndaemonize no\n{saving}"
        )
        identity.give(configuration)
        program = find_valkey()
        return [
            str(identity.reachable_binaries(program.parent, self._running_directory()) / program.name),
            str(configuration),
        ]

    def _answers(self, port: int) -> bool:
        path = self._sockets / "valkey.sock"
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(_ANSWER_TIMEOUT_SECONDS)
                client.connect(str(path))
                client.sendall(_PING % self._credentials.app.encode())
                if b"+PONG" not in _read_lines(client, 2):
                    return False
        except OSError:
            return False
        self._address = ValkeyAddress(
            path, port, self._running_process().supervisor_pid, self._credentials.app
        )
        return True

    def _stop_plan(self) -> list[tuple[str, float]]:
        return [("TERM", 10.0), ("KILL", 5.0)]


def _read_lines(client: socket.socket, count: int) -> bytes:
    answer = b""
    while answer.count(b"\r\n") < count:
        part = client.recv(4096)
        if not part:
            break
        answer += part
    return answer
