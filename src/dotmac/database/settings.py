"""Where the database is and how to treat it: one frozen object from a URL, from parts, or from the environment.

Every source is first taken apart into the same parts, so a whole URL and single parts can be mixed: what is passed
to the constructor beats the environment part by part, and within one source a part fills what its URL leaves out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, GetCoreSchemaHandler, SecretStr, ValidationError
from pydantic_core import core_schema
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dotmac.database._urls import async_url, join_url, render, split_url, sync_url
from dotmac.database.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo
    from sqlalchemy.engine import URL

_VARIABLES: dict[str, tuple[str, ...]] = {
    "url": ("DATABASE_URL",),
    "driver": ("DATABASE_DRIVER", "DB_DRIVER"),
    "host": ("DATABASE_HOST", "DB_HOST", "POSTGRES_HOST"),
    "port": ("DATABASE_PORT", "DB_PORT", "POSTGRES_PORT"),
    "user": ("DATABASE_USER", "DB_USER", "POSTGRES_USER"),
    "password": ("DATABASE_PASSWORD", "DB_PASSWORD", "POSTGRES_PASSWORD"),
    "database": ("DATABASE_NAME", "DB_NAME", "POSTGRES_DB"),
    "read_database_url": ("DATABASE_READ_URL", "DATABASE_REPLICA_URL"),
    "admin_database_url": ("ADMIN_DATABASE_URL",),
    "pool_size": ("DB_POOL_SIZE", "DATABASE_POOL_SIZE"),
    "max_overflow": ("DB_MAX_OVERFLOW", "DATABASE_MAX_OVERFLOW"),
    "pool_timeout": ("DATABASE_POOL_TIMEOUT", "DB_POOL_TIMEOUT"),
    "pool_recycle": ("DB_POOL_RECYCLE", "DATABASE_POOL_RECYCLE"),
    "pool_pre_ping": ("DATABASE_POOL_PRE_PING", "DB_POOL_PRE_PING"),
    "echo": ("SQLALCHEMY_ECHO", "SQL_ECHO", "DATABASE_ECHO", "DB_ECHO"),
    "echo_pool": ("DATABASE_ECHO_POOL", "DB_ECHO_POOL"),
    "statement_timeout": ("DATABASE_STATEMENT_TIMEOUT", "DB_STATEMENT_TIMEOUT"),
    "connect_timeout": ("DATABASE_CONNECT_TIMEOUT", "DB_CONNECT_TIMEOUT"),
    "application_name": ("DATABASE_APPLICATION_NAME", "DB_APPLICATION_NAME"),
    "encryption_key": ("DB_ENCRYPTION_KEY", "DATABASE_ENCRYPTION_KEY"),
    "redis_url": ("REDIS_URL",),
    "redis_max_connections": ("REDIS_MAX_CONNECTIONS",),
}
_OTHER_NAMES = {
    "read_url": "read_database_url",
    "replica_url": "read_database_url",
    "admin_url": "admin_database_url",
    "username": "user",
    "database_url": "url",
}
_SECRET_NAMES = frozenset(
    {"url", "password", "read_database_url", "admin_database_url", "encryption_key", "redis_url"}
)


class DatabaseSettings(BaseSettings):
    """Where the database is and how to treat it. Immutable; secrets never show in its repr or errors.

    Takes a whole ``url`` or parts; what is left out comes from the environment (see ``docs/settings.md`` for every
    variable), then from the defaults below. All times are seconds.

    Example:
        >>> settings = DatabaseSettings(host="db", user="app", password="p@ss/word", database="shop")
        >>> settings.sync_url
        'postgresql+psycopg://app:p%40ss%2Fword@db:5432/shop'

    Raises:
        ConfigurationError: A value does not fit; the message names it and shows no secret.
        TypeError: A name that is no setting was passed.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    drivername: str = "postgresql+psycopg"
    host: str | None = "localhost"
    port: int | None = Field(default=5432, ge=1, le=65535)
    user: str | None = "postgres"
    password: SecretStr | None = SecretStr("postgres")
    database: str | None = "app"
    query: str = Field(default="", repr=False)

    read_database_url: SecretStr | None = None
    admin_database_url: SecretStr | None = None

    pool_size: int = Field(default=10, ge=0)
    max_overflow: int = Field(default=20, ge=-1)
    pool_timeout: float = Field(default=30, gt=0)
    pool_recycle: int = Field(default=1800, ge=-1)
    pool_pre_ping: bool = True
    echo: bool | Literal["debug"] = False
    echo_pool: bool | Literal["debug"] = False
    statement_timeout: float | None = Field(default=None, gt=0)
    connect_timeout: float = Field(default=10, gt=0)
    application_name: str = "dotmac-database"

    encryption_key: SecretStr | None = None
    redis_url: SecretStr = SecretStr("redis://localhost:6379/0")
    redis_max_connections: int = Field(default=50, ge=1)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, line['loc'])) or 'settings'}: {line['msg']}"
                for line in error.errors(include_input=False, include_context=False, include_url=False)
            )
            raise ConfigurationError(f"The database settings do not fit. {wrong}.") from None

    @property
    def url(self) -> str:
        """The URL for an asyncio driver, password included."""
        return render(async_url(self.address))

    @property
    def sync_url(self) -> str:
        """The URL for a blocking driver (migrations, scripts), password included."""
        return render(sync_url(self.address))

    @property
    def read_url(self) -> str | None:
        """The replica's URL for an asyncio driver, or None where every read goes to the primary."""
        return _other(self.read_database_url)

    @property
    def admin_url(self) -> str | None:
        """The administrative URL for an asyncio driver, or None where ADMIN_DATABASE_URL is not set."""
        return _other(self.admin_database_url)

    @property
    def address(self) -> URL:
        """The URL as given, before a driver is chosen. Its ``str()`` hides the password."""
        return join_url(
            self.drivername,
            user=self.user,
            password=self.password.get_secret_value() if self.password is not None else None,
            host=self.host,
            port=self.port,
            database=self.database,
            query=self.query,
        )

    def for_reading(self) -> DatabaseSettings:
        """These settings, pointed at the replica; unchanged where none is configured."""
        if self.read_database_url is None:
            return self
        return self.model_copy(update=_masked(split_url(self.read_database_url.get_secret_value())))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then a dotenv file, then secret files; each taken apart into parts."""
        return (
            _Arguments(settings_cls, init_settings),
            _Variables(settings_cls, env_settings),
            _Variables(settings_cls, dotenv_settings),
            file_secret_settings,
        )

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        # Nested in another settings class, a wrong value is reported by that class together with the input:
        # the secrets in it are wrapped before anything can go wrong.
        return core_schema.no_info_before_validator_function(
            lambda value: _masked(value) if isinstance(value, dict) else value, handler(source)
        )


class _PartsSource(PydanticBaseSettingsSource):
    """One source of settings, its whole URL taken apart."""

    def __init__(self, settings_cls: type[BaseSettings], source: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._source = source

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return None, field_name, False

    def _taken_apart(self, values: Mapping[str, Any]) -> dict[str, Any]:
        parts = {name: value for name, value in values.items() if name not in {"url", "driver"}}
        if (url := values.get("url")) is not None:
            whole = split_url(url.get_secret_value() if isinstance(url, SecretStr) else url)
            parts = {
                **parts,
                **{name: value for name, value in whole.items() if name not in parts or value is not None},
            }
        elif driver := values.get("driver"):
            parts["drivername"] = driver if "+" in driver else f"postgresql+{driver}"
        for name in ("read_database_url", "admin_database_url"):
            if (other := parts.get(name)) is not None:
                split_url(other.get_secret_value() if isinstance(other, SecretStr) else other)
        return _masked(parts)


class _Arguments(_PartsSource):
    """What was passed to the constructor."""

    def __call__(self) -> dict[str, Any]:
        given = {_OTHER_NAMES.get(name, name): value for name, value in self._source().items()}
        unknown = sorted(given.keys() - self.settings_cls.model_fields.keys() - _VARIABLES.keys())
        if unknown:
            known = sorted(self.settings_cls.model_fields.keys() | {"url", "read_url", "admin_url"})
            raise TypeError(f"{', '.join(unknown)}: no such setting. There are: {', '.join(known)}.")
        if given.get("url") is not None:
            # Another server's replica, from the environment, would answer for this one.
            given.setdefault("read_database_url", None)
        return self._taken_apart({name: value for name, value in given.items() if name != "url" or value})


class _Variables(_PartsSource):
    """What the environment, or a dotenv file, says."""

    def __call__(self) -> dict[str, Any]:
        variables: Mapping[str, str | None] = getattr(self._source, "env_vars", {})
        found: dict[str, Any] = {
            name: value for name, value in self._source().items() if name not in DatabaseSettings.model_fields
        }
        for setting, names in _VARIABLES.items():
            for name in names:
                value = variables.get(name.lower()) or variables.get(name)
                if value:
                    found[setting] = value
                    break
        return self._taken_apart(found)


def _masked(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: SecretStr(value)
        if _OTHER_NAMES.get(name, name) in _SECRET_NAMES and isinstance(value, str)
        else value
        for name, value in values.items()
    }


def _other(secret: SecretStr | None) -> str | None:
    if secret is None:
        return None
    parts = split_url(secret.get_secret_value())
    names = ("user", "password", "host", "port", "database", "query")
    url = join_url(parts["drivername"], **{name: parts[name] for name in names})
    return render(async_url(url))
