from __future__ import annotations

from argparse import Namespace

import pytest
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import make_url

from dotmac.database.alembic import get_alembic_config_url
from dotmac.database.alembic._url import migration_url
from dotmac.database.errors import ConfigurationError
from dotmac.database.settings import DatabaseSettings

PASSWORD = "p@ss%word/é"
URL = "postgresql+asyncpg://app:p%40ss%25word%2F%C3%A9@db:5432/shop"


@pytest.fixture(autouse=True)
def no_database_in_the_environment(monkeypatch):
    for prefix in ("DATABASE", "DB", "POSTGRES"):
        for part in ("URL", "HOST", "PORT", "USER", "PASSWORD", "NAME", "DB"):
            monkeypatch.delenv(f"{prefix}_{part}", raising=False)
    monkeypatch.delenv("MIGRATION_DATABASE_URL", raising=False)


def configured(*, x: str | None = None, option: str | None = None, attribute: str | None = None) -> Config:
    config = Config(cmd_opts=Namespace(x=[f"url={x}", "other=1"] if x else None))
    if option is not None:
        config.set_main_option("sqlalchemy.url", option)
    if attribute is not None:
        config.attributes["url"] = attribute
    return config


def database(config: Config, **arguments) -> str | None:
    return migration_url(config, **arguments).database


def test_the_closest_source_wins(monkeypatch):
    config = configured(x="sqlite:///x", option="sqlite:///option", attribute="sqlite:///attribute")
    monkeypatch.setenv("MIGRATION_DATABASE_URL", "sqlite:///migration")
    monkeypatch.setenv("DATABASE_URL", "sqlite:///environment")
    settings = DatabaseSettings(url="sqlite:///settings")
    order = []
    order.append(database(config, url="sqlite:///argument", settings=settings))
    del config.attributes["url"]
    order.append(database(config, url="sqlite:///argument", settings=settings))
    config.cmd_opts = None
    order.append(database(config, url="sqlite:///argument", settings=settings))
    order.append(database(config, settings=settings))
    order.append(database(config))
    monkeypatch.delenv("MIGRATION_DATABASE_URL")
    order.append(database(config))
    monkeypatch.delenv("DATABASE_URL")
    order.append(database(config))
    assert order == ["attribute", "x", "argument", "settings", "migration", "environment", "option"]


def test_parts_in_the_environment_count_too(monkeypatch):
    monkeypatch.setenv("DB_HOST", "elsewhere")
    assert migration_url(configured(option="sqlite:///option")).host == "elsewhere"


def test_the_administrative_database_is_never_migrated_by_accident(monkeypatch):
    monkeypatch.setenv("ADMIN_DATABASE_URL", "postgresql://postgres@db/admin")
    assert database(configured(option="sqlite:///option")) == "option"


@pytest.mark.parametrize("option", [None, "driver://user:pass@localhost/dbname"])
def test_no_url_says_where_to_put_one(option):
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        migration_url(configured(option=option))


@pytest.mark.parametrize("url", ["nonsense", "nobase://u:secret@h/d", "postgresql://u:secret@h:secret/d"])
def test_an_unusable_url_names_its_source_and_hides_itself(url):
    with pytest.raises(ConfigurationError, match="alembic -x url") as caught:
        migration_url(configured(x=url))
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgres://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("postgresql://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("postgresql+asyncpg://u@h/d?sslmode=disable", "postgresql+asyncpg://u@h/d?ssl=disable"),
        ("postgresql+psycopg_async://u@h/d", "postgresql+psycopg_async://u@h/d"),
        ("postgres+psycopg://u@h/d?sslmode=disable", "postgresql+psycopg://u@h/d?sslmode=disable"),
        ("sqlite:///file.db", "sqlite:///file.db"),
        ("mysql+pymysql://u@h/d", "mysql+pymysql://u@h/d"),
    ],
)
def test_a_url_gets_a_driver_and_keeps_the_one_it_names(given, used):
    assert migration_url(configured(x=given)).render_as_string() == used


def test_the_config_url_survives_the_configuration_file(tmp_path, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", URL)
    config = Config()
    config.set_main_option("script_location", str(tmp_path))
    with EnvironmentContext(config, ScriptDirectory(tmp_path)):
        config.set_main_option("sqlalchemy.url", get_alembic_config_url())
        plain = get_alembic_config_url(escape=False)
    assert make_url(config.get_main_option("sqlalchemy.url")).password == PASSWORD
    assert make_url(plain).password == PASSWORD
