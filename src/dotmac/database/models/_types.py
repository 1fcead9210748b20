"""Column types: timezone-aware UTC datetimes and strings that are encrypted at rest."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import DateTime, Text
from sqlalchemy.dialects.mysql import DATETIME as MYSQL_DATETIME
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from dotmac.database.encryption import multi_fernet, split_keys
from dotmac.database.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.engine import Dialect
    from sqlalchemy.sql.compiler import SQLCompiler


class UTCDateTime(TypeDecorator[datetime]):
    """A point in time: goes in timezone-aware, comes out timezone-aware in UTC, on every database.

    ``timestamptz`` on PostgreSQL, ``DATETIME(6)`` on MySQL, ISO text with microseconds on SQLite.

    Raises:
        ValueError: On binding a naive datetime; which instant it means would be a guess.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    @property
    def python_type(self) -> type[datetime]:
        """``datetime``."""
        return datetime

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Microseconds on MySQL too, whose plain DATETIME drops them."""
        if dialect.name in {"mysql", "mariadb"}:
            return dialect.type_descriptor(MYSQL_DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """UTC, and without a timezone where the database has no type for one."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(
                "A naive datetime was given for a UTC column. Pass an aware one: datetime.now(UTC), or value.replace(tzinfo=…)."
            )
        moment = value.astimezone(UTC)
        return moment if dialect.name == "postgresql" else moment.replace(tzinfo=None)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """None with asyncpg, which always gives aware datetimes in UTC; others give the session's time zone, or none."""
        if dialect.driver == "asyncpg":
            return self.impl_instance.result_processor(dialect, coltype)
        return super().result_processor(dialect, coltype)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Aware and in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class utc_now(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function it is
    """The transaction's time at the server, as SQL; usable as a server default on every database."""

    type = UTCDateTime()
    inherit_cache = True


@compiles(utc_now)
def _utc_now(_element: utc_now, _compiler: SQLCompiler, **_: Any) -> str:
    return "CURRENT_TIMESTAMP"


@compiles(utc_now, "mysql")
@compiles(utc_now, "mariadb")
def _utc_now_mysql(_element: utc_now, _compiler: SQLCompiler, **_: Any) -> str:
    return "CURRENT_TIMESTAMP(6)"


@compiles(utc_now, "sqlite")
def _utc_now_sqlite(_element: utc_now, _compiler: SQLCompiler, **_: Any) -> str:
    # Six digits, as SQLAlchemy stores bound values: text of different lengths would compare wrongly.
    return "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))"


class EncryptedString(TypeDecorator[str]):
    """Text that is encrypted before it leaves the process (MultiFernet: AES-128-CBC with HMAC-SHA256).

    Rotation: put the new key first and keep the old one; values are re-encrypted when they are next written.
    Equal texts have different ciphertexts: such a column cannot be filtered, sorted or unique.

    Args:
        keys: Keys, newest first, or a callable that gives them. Default: the ``DB_ENCRYPTION_KEY`` setting.

    Raises:
        ConfigurationError: On first use, if there is no key, or no key fits a stored value.
    """

    impl = Text
    cache_ok = True

    def __init__(self, keys: Sequence[str] | Callable[[], Sequence[str]] | None = None) -> None:
        super().__init__()
        # One underscore: SQLAlchemy builds the cache key of a type from its public constructor arguments.
        self._keys = tuple(keys) if keys is not None and not callable(keys) else keys

    def __repr__(self) -> str:
        """Without the keys."""
        return "EncryptedString()"

    @property
    def python_type(self) -> type[str]:
        """``str``."""
        return str

    def _resolve(self) -> Sequence[str]:
        if self._keys is None:
            from dotmac.database.settings import DatabaseSettings  # noqa: PLC0415 - only where it is used

            secret = DatabaseSettings().encryption_key
            return split_keys(secret.get_secret_value()) if secret else ()
        return self._keys() if callable(self._keys) else self._keys

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """The ciphertext."""
        return None if value is None else multi_fernet(self._resolve()).encrypt(value.encode()).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """The plain text."""
        if value is None:
            return None
        from cryptography.fernet import InvalidToken  # noqa: PLC0415 - an extra

        try:
            return multi_fernet(self._resolve()).decrypt(value.encode()).decode()
        except InvalidToken:
            raise ConfigurationError(
                "A stored value cannot be decrypted with any configured key. Add the key it was written with to DB_ENCRYPTION_KEY."
            ) from None
