from __future__ import annotations

import os

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import make_url

from dotmac.database import _urls
from dotmac.database.errors import ConfigurationError
from dotmac.database.settings import DatabaseSettings

PASSWORD = "p@ss/w:rd?#[ü]%20"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("DATABASE_", "DB_", "POSTGRES_", "SQL", "REDIS_", "ADMIN_")):
            monkeypatch.delenv(name)


def test_defaults_name_a_local_postgresql():
    settings = DatabaseSettings()
    assert settings.url == settings.sync_url == "postgresql+psycopg://postgres:postgres@localhost:5432/app"
    assert (settings.pool_size, settings.max_overflow, settings.pool_timeout, settings.pool_recycle) == (
        10,
        20,
        30,
        1800,
    )


def test_parts_make_a_url_and_special_characters_survive():
    settings = DatabaseSettings(host="db", port=5433, user="a@b", password=PASSWORD, database="shop")
    for url in (make_url(settings.url), make_url(settings.sync_url)):
        assert (url.username, url.password, url.host, url.port, url.database) == (
            "a@b",
            PASSWORD,
            "db",
            5433,
            "shop",
        )


def test_whole_url_becomes_parts():
    settings = DatabaseSettings(url="postgresql://ada:pw@db:5433/shop")
    assert (settings.user, settings.host, settings.port, settings.database) == ("ada", "db", 5433, "shop")
    assert settings.password.get_secret_value() == "pw"


@pytest.mark.parametrize(
    ("given", "asynchronous", "blocking"),
    [
        ("postgres://u@h/d", "postgresql+asyncpg://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql://u@h/d", "postgresql+asyncpg://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql+asyncpg://u@h/d", "postgresql+asyncpg://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql+psycopg://u@h/d", "postgresql+psycopg://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql+psycopg_async://u@h/d", "postgresql+psycopg://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql+psycopg2://u@h/d", "postgresql+asyncpg://u@h/d", "postgresql+psycopg://u@h/d"),
        ("mysql://u@h/d", "mysql+asyncmy://u@h/d", "mysql+pymysql://u@h/d"),
        ("mysql+aiomysql://u@h/d", "mysql+aiomysql://u@h/d", "mysql+pymysql://u@h/d"),
        ("mariadb://u@h/d", "mariadb+asyncmy://u@h/d", "mariadb+pymysql://u@h/d"),
        ("sqlite:///data/app.db", "sqlite+aiosqlite:///data/app.db", "sqlite:///data/app.db"),
        ("sqlite+aiosqlite:///:memory:", "sqlite+aiosqlite:///:memory:", "sqlite:///:memory:"),
        (
            "postgresql+asyncpg://u@h/d?ssl=require&command_timeout=5",
            "postgresql+asyncpg://u@h/d?command_timeout=5&ssl=require",
            "postgresql+psycopg://u@h/d?sslmode=require",
        ),
        (
            "postgresql://u@h/d?sslmode=disable",
            "postgresql+asyncpg://u@h/d?ssl=disable",
            "postgresql+psycopg://u@h/d?sslmode=disable",
        ),
    ],
)
def test_each_url_has_an_asyncio_and_a_blocking_twin(given, asynchronous, blocking):
    settings = DatabaseSettings(url=given)
    assert make_url(settings.url) == make_url(asynchronous)
    assert make_url(settings.sync_url) == make_url(blocking)


@pytest.mark.parametrize(
    ("variable", "value", "setting", "expected"),
    [
        ("DB_POOL_SIZE", "7", "pool_size", 7),
        ("DATABASE_POOL_SIZE", "7", "pool_size", 7),
        ("DB_MAX_OVERFLOW", "7", "max_overflow", 7),
        ("DATABASE_MAX_OVERFLOW", "7", "max_overflow", 7),
        ("DB_POOL_RECYCLE", "7", "pool_recycle", 7),
        ("DATABASE_POOL_RECYCLE", "7", "pool_recycle", 7),
        ("DATABASE_POOL_TIMEOUT", "7", "pool_timeout", 7),
        ("SQLALCHEMY_ECHO", "true", "echo", True),
        ("SQL_ECHO", "false", "echo", False),
        ("SQL_ECHO", "debug", "echo", "debug"),
        ("REDIS_MAX_CONNECTIONS", "7", "redis_max_connections", 7),
        ("DATABASE_STATEMENT_TIMEOUT", "2.5", "statement_timeout", 2.5),
        ("DATABASE_APPLICATION_NAME", "shop", "application_name", "shop"),
        ("DATABASE_HOST", "db", "host", "db"),
        ("POSTGRES_DB", "shop", "database", "shop"),
        ("POSTGRES_USER", "ada", "user", "ada"),
    ],
)
def test_variables_of_every_name_are_read(monkeypatch, variable, value, setting, expected):
    monkeypatch.setenv(variable, value)
    assert getattr(DatabaseSettings(), setting) == expected


@pytest.mark.parametrize(
    ("variable", "setting"),
    [("DB_ENCRYPTION_KEY", "encryption_key"), ("REDIS_URL", "redis_url"), ("DATABASE_PASSWORD", "password")],
)
def test_secret_variables_are_read_and_hidden(monkeypatch, variable, setting):
    monkeypatch.setenv(variable, "s3cret-value")
    settings = DatabaseSettings()
    assert getattr(settings, setting).get_secret_value() == "s3cret-value"
    assert "s3cret-value" not in f"{settings!r} {settings} {settings.model_dump()}"


def test_operating_system_variables_are_not_mistaken_for_settings(monkeypatch):
    monkeypatch.setenv("USER", "root")
    monkeypatch.setenv("HOST", "laptop")
    assert (DatabaseSettings().user, DatabaseSettings().host) == ("postgres", "localhost")


def test_empty_variables_count_as_unset(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("DB_POOL_SIZE", "")
    assert DatabaseSettings() == DatabaseSettings(pool_size=10)


def test_arguments_beat_the_environment_part_by_part(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql+asyncpg://u:p@primary/d?ssl=require")
    monkeypatch.setenv("DB_POOL_SIZE", "7")
    settings = DatabaseSettings(host="elsewhere", pool_size=3)
    assert settings.url == "postgresql+asyncpg://u:p@elsewhere/d?ssl=require"
    assert settings.pool_size == 3


def test_url_argument_takes_nothing_of_the_environments_url(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql+asyncpg://u:p@primary:5433/d?ssl=require")
    monkeypatch.setenv("DATABASE_READ_URL", "postgresql+asyncpg://u:p@replica/d")
    settings = DatabaseSettings(url="postgresql+asyncpg://other/x")
    assert settings.url == "postgresql+asyncpg://other/x"
    assert settings.read_url is None


@pytest.mark.parametrize("variable", ["DATABASE_READ_URL", "DATABASE_REPLICA_URL"])
def test_replica_is_read_from_the_environment(monkeypatch, variable):
    monkeypatch.setenv(variable, "postgresql://u:p@replica/d")
    settings = DatabaseSettings()
    assert settings.read_url == "postgresql+asyncpg://u:p@replica/d"
    assert settings.for_reading().host == "replica"
    assert settings.for_reading().pool_size == settings.pool_size
    assert "p@replica" not in repr(settings.for_reading())


def test_without_a_replica_reads_go_to_the_primary():
    settings = DatabaseSettings()
    assert settings.for_reading() is settings


def test_admin_url_with_libpq_parameters_suits_asyncpg(monkeypatch):
    monkeypatch.setenv("ADMIN_DATABASE_URL", "postgresql://postgres:pw@localhost:5432/admin?sslmode=disable")
    assert DatabaseSettings().admin_url == "postgresql+asyncpg://postgres:pw@localhost:5432/admin?ssl=disable"


def test_parameters_in_the_url_that_are_settings_become_settings():
    settings = DatabaseSettings(
        url="postgresql://h/d?application_name=shop&connect_timeout=3&user=ada&password=pw"
    )
    assert (settings.application_name, settings.connect_timeout, settings.user) == ("shop", 3, "ada")
    assert settings.url == "postgresql+asyncpg://ada:pw@h/d"
    assert "pw" not in repr(settings)


def leaks(error):
    shown = [str(error), repr(error)]
    if isinstance(error, ValidationError):
        shown.append(str(error.errors()))
    if error.__cause__ is not None:
        shown += leaks(error.__cause__)
    if error.__context__ is not None and not error.__suppress_context__:
        shown += leaks(error.__context__)
    return [text for text in shown if "s3cret" in text]


@pytest.mark.parametrize(
    "values",
    [
        {"url": "postgresql://ada:s3cret@db:notaport/shop"},
        {"url": "s3cret"},
        {"url": "postgresql://ada:s3cret@extra:s3cret@db:1x/shop"},
        {"read_url": "postgresql://ada:s3cret@db:notaport/shop"},
        {"password": "s3cret", "pool_size": "many"},
        {"password": ["s3cret"]},
        {"url": "postgresql://ada:s3cret@db:70000/shop"},
    ],
)
def test_error_about_settings_shows_no_secret(values):
    with pytest.raises(ConfigurationError) as caught:
        DatabaseSettings(**values)
    assert not leaks(caught.value)


def test_error_about_settings_in_the_environment_shows_no_secret(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://ada:s3cret@db:notaport/shop")
    with pytest.raises(ConfigurationError) as caught:
        DatabaseSettings()
    assert not leaks(caught.value)


def test_error_about_settings_inside_other_settings_shows_no_secret():
    class Settings(BaseSettings):
        database: DatabaseSettings

    with pytest.raises(ValidationError) as caught:
        Settings(database={"url": "postgresql://ada:s3cret@db:notaport/shop"})
    assert not leaks(caught.value)


def test_name_that_is_no_setting_is_refused_without_its_value():
    with pytest.raises(TypeError, match="pasword: no such setting") as caught:
        DatabaseSettings(pasword="s3cret")
    assert not leaks(caught.value)


def test_settings_are_immutable():
    settings = DatabaseSettings()
    with pytest.raises(ValidationError):
        settings.host = "elsewhere"


def test_settings_nest_in_an_applications_settings(monkeypatch):
    class Settings(BaseSettings):
        model_config = SettingsConfigDict(env_nested_delimiter="__")
        database: DatabaseSettings = DatabaseSettings()

    assert Settings().database.sync_url.startswith("postgresql+psycopg://")
    monkeypatch.setenv("DATABASE__HOST", "db")
    monkeypatch.setenv("DATABASE__POOL_SIZE", "4")
    nested = Settings().database
    assert (nested.host, nested.pool_size) == ("db", 4)


def test_subclass_may_add_settings_of_its_own(monkeypatch):
    class ShopSettings(DatabaseSettings):
        shop_name: str = "corner"

    monkeypatch.setenv("SHOP_NAME", "market")
    assert ShopSettings(host="db").shop_name == "market"


def test_dotenv_file_is_read_below_the_environment(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("DATABASE_URL=postgresql+asyncpg://u:p@file/d\nDB_POOL_SIZE=4\nOTHER=1\n")
    monkeypatch.setenv("DB_POOL_SIZE", "5")
    settings = DatabaseSettings(_env_file=tmp_path / ".env")
    assert (settings.host, settings.pool_size) == ("file", 5)


@pytest.mark.parametrize(
    ("name", "extra"), [("url", "asyncpg"), ("sync_url", "pg")], ids=["asyncio", "blocking"]
)
def test_missing_driver_is_answered_with_one_command(name, extra, monkeypatch):
    monkeypatch.setattr(_urls, "_installed", lambda _driver: False)
    with pytest.raises(ConfigurationError, match=rf"pip install 'dotmac-database\[{extra}\]'$"):
        getattr(DatabaseSettings(driver="postgresql"), name)
