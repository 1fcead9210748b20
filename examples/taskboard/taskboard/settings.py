"""Settings, from the environment and an optional ``.env`` file: the database's and the application's own."""

from __future__ import annotations

from functools import lru_cache

from dotmac.database import DatabaseSettings
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class TaskboardDatabaseSettings(DatabaseSettings):
    """Where the database is: ``DATABASE_URL``, or ``POSTGRES_USER`` and its family as in ``compose.yaml``."""

    model_config = SettingsConfigDict(env_file=".env", frozen=True, extra="ignore", hide_input_in_errors=True)

    application_name: str = "taskboard"


class Settings(BaseSettings):
    """What the application itself can be told: variables ``TASKBOARD_…``."""

    model_config = SettingsConfigDict(
        env_prefix="TASKBOARD_", env_file=".env", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    tenant: str | None = Field(
        default=None,
        description="The tenant of scripts that name none; the HTTP API always wants the header.",
    )
    max_import_bytes: int = Field(default=50 * 1024 * 1024, gt=0, description="Largest file the API imports.")


@lru_cache
def get_settings() -> Settings:
    """The application's settings, read once."""
    return Settings()


@lru_cache
def get_database_settings() -> TaskboardDatabaseSettings:
    """The database's settings, read once."""
    return TaskboardDatabaseSettings()
