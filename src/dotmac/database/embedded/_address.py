"""Where a running PostgreSQL is reached, and its administration over its private socket.

Unlike the server's owner, an address can be handed to another process.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dotmac.database.embedded._credentials import Credentials
from dotmac.database.embedded._server import shut_down
from dotmac.database.embedded._wire import WireConnection, WireError, quote_identifier
from dotmac.database.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Iterator

Role = Literal["app", "admin"]

_USERS: dict[Role, str] = {"app": "app", "admin": "postgres"}


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """A running server of ours.

    Attributes:
        socket_dir: The private directory of its Unix socket.
        port: Its port on 127.0.0.1.
        supervisor_pid: The process that guards it; SIGTERM stops both.
        credentials: Passwords of its two roles.
    """

    socket_dir: Path
    port: int
    supervisor_pid: int
    credentials: Credentials = field(repr=False)

    @property
    def socket_path(self) -> Path:
        """The Unix socket itself."""
        return self.socket_dir / f".s.PGSQL.{self.port}"

    def url(self, database: str = "app", *, driver: str | None = "asyncpg", role: Role = "app") -> str:
        """A URL with its password: keep it out of logs.

        Args:
            database: Database name.
            driver: ``"asyncpg"`` or ``"psycopg"`` for SQLAlchemy; None for a plain ``postgresql://`` URL.
            role: ``"app"`` (no superuser, no BYPASSRLS) or ``"admin"`` (superuser).
        """
        scheme = "postgresql" if driver is None else f"postgresql+{driver}"
        password = self.credentials.app if role == "app" else self.credentials.admin
        return f"{scheme}://{_USERS[role]}:{password}@127.0.0.1:{self.port}/{database}"

    def execute(self, sql: str, database: str = "postgres") -> list[list[str | None]]:
        """Run one statement as superuser; its rows as text.

        Raises:
            EmbeddedServerError: The server refused it or is gone.
        """
        with self._connect(database) as connection:
            return connection.execute(sql)

    def create_database(self, name: str, *, template: str | None = None, owner: str = "app") -> None:
        """Create a database that ``owner`` may create tables in, as a copy of ``template`` if given.

        Raises:
            EmbeddedServerError: The name exists already, or the template has open connections.
        """
        source = "" if template is None else f" TEMPLATE {quote_identifier(template)}"
        self.execute(f"CREATE DATABASE {quote_identifier(name)} OWNER {quote_identifier(owner)}{source}")

    def drop_database(self, name: str) -> None:
        """Drop a database, closing its connections; nothing happens when there is none."""
        self.execute(f"DROP DATABASE IF EXISTS {quote_identifier(name)} WITH (FORCE)")

    def shut_down(self) -> None:
        """Stop a server that `EmbeddedPostgres.detach` left running, and wait until it is gone."""
        shut_down(self.socket_dir.parent, self.supervisor_pid)

    def to_json(self) -> dict[str, Any]:
        """Everything another process needs, passwords included."""
        return {
            "socket_dir": str(self.socket_dir),
            "port": self.port,
            "supervisor_pid": self.supervisor_pid,
            "credentials": {"admin": self.credentials.admin, "app": self.credentials.app},
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PostgresAddress:
        """The inverse of `to_json`."""
        return cls(
            Path(data["socket_dir"]), data["port"], data["supervisor_pid"], Credentials(**data["credentials"])
        )

    @contextmanager
    def _connect(self, database: str) -> Iterator[WireConnection]:
        try:
            with WireConnection(self.socket_path, database) as connection:
                yield connection
        except WireError as error:
            raise EmbeddedServerError(f"PostgreSQL refused: {error} (SQLSTATE {error.sqlstate}).") from error
        except OSError as error:
            raise EmbeddedServerError(
                f"The embedded PostgreSQL does not answer: {error}. It was stopped or has crashed; start it again."
            ) from error
