from __future__ import annotations

import pytest
from sqlalchemy import Engine, make_url
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, QueuePool

from dotmac.database.engine import create_async_engine, create_engine, create_session_factory
from dotmac.database.engine._plan import plan_engine
from dotmac.database.errors import ConfigurationError
from dotmac.database.settings import DatabaseSettings

ASYNCPG = "postgresql+asyncpg://u:p@h/d"
PSYCOPG = "postgresql+psycopg://u:p@h/d"


def plan(url, *, is_async=True, settings=None, **overrides):
    return plan_engine(DatabaseSettings(url=url, **(settings or {})), overrides, is_async=is_async)


def test_settings_shape_the_pool():
    arguments = plan(ASYNCPG, settings={"pool_size": 3, "max_overflow": 4, "pool_timeout": 5}).arguments
    assert (arguments["pool_size"], arguments["max_overflow"], arguments["pool_timeout"]) == (3, 4, 5)
    assert arguments["poolclass"] is AsyncAdaptedQueuePool
    assert arguments["pool_use_lifo"] is True


def test_arguments_beat_settings():
    found = plan(
        ASYNCPG, settings={"pool_size": 3, "echo": True}, pool_size=9, echo=False, hide_parameters=False
    )
    assert found.arguments["pool_size"] == 9
    assert found.arguments["echo"] is False
    assert found.arguments["hide_parameters"] is False


def test_parameters_are_hidden_unless_asked_for():
    assert plan(ASYNCPG).arguments["hide_parameters"] is True


def test_other_pool_class_gets_no_queue_arguments():
    arguments = plan(ASYNCPG, poolclass=NullPool).arguments
    assert not {"pool_size", "max_overflow", "pool_timeout"} & arguments.keys()


@pytest.mark.parametrize(("given", "expected"), [({}, True), ({"pool_pre_ping": False}, False)])
def test_liveness_is_checked_unless_switched_off(given, expected):
    found = plan(ASYNCPG, **given)
    assert found.checks_liveness is expected
    assert "pool_pre_ping" not in found.arguments


def test_asyncpg_arguments_pass_through_over_ours():
    given = {"command_timeout": 60, "server_settings": {"jit": "on", "application_name": "dotmac-app"}}
    found = plan(ASYNCPG, connect_args=given).arguments["connect_args"]
    assert found["command_timeout"] == 60
    assert found["server_settings"] == {"jit": "on", "application_name": "dotmac-app", "TimeZone": "UTC"}


def test_server_setting_of_none_takes_ours_away():
    found = plan(ASYNCPG, connect_args={"server_settings": {"jit": None}}).arguments["connect_args"]
    assert "jit" not in found["server_settings"]


def test_asyncpg_style_arguments_are_translated_for_psycopg():
    given = {
        "command_timeout": 60,
        "timeout": 7,
        "ssl": "require",
        "statement_cache_size": 0,
        "server_settings": {"jit": "on", "application_name": "dotmac-app", "search_path": "a, b"},
    }
    found = plan(PSYCOPG, connect_args=given).arguments["connect_args"]
    assert found["application_name"] == "dotmac-app"
    assert found["connect_timeout"] == 7
    assert found["sslmode"] == "require"
    assert found["prepare_threshold"] is None
    assert found["options"] == r"-c TimeZone=UTC -c statement_timeout=60000 -c jit=on -c search_path=a,\ b"
    assert not {"command_timeout", "timeout", "ssl", "server_settings", "statement_cache_size"} & found.keys()


def test_arguments_only_asyncpg_knows_are_refused_for_psycopg():
    with pytest.raises(ConfigurationError, match="connection_class belong to asyncpg"):
        plan(PSYCOPG, connect_args={"connection_class": object})


def test_libpq_parameters_are_translated_for_asyncpg():
    found = plan(
        "postgresql+asyncpg://h/d?sslmode=verify-full&sslrootcert=/ca.pem&options=-c%20work_mem%3D5MB&keepalives=1"
        "&statement_cache_size=0"
    )
    assert dict(found.url.query) == {"ssl": "verify-full"}
    connect_args = found.arguments["connect_args"]
    assert connect_args["dsn"] == "postgresql://?sslrootcert=%2Fca.pem"
    assert connect_args["server_settings"]["work_mem"] == "5MB"
    assert connect_args["statement_cache_size"] == 0


def test_required_channel_binding_is_refused_for_asyncpg_and_kept_for_psycopg():
    query = "?sslmode=require&channel_binding=require"
    with pytest.raises(ConfigurationError, match="channel_binding"):
        plan(ASYNCPG + query)
    assert plan(PSYCOPG + query).url.query["channel_binding"] == "require"


def test_statement_timeout_reaches_every_server():
    settings = {"statement_timeout": 1.5}
    assert (
        plan(ASYNCPG, settings=settings).arguments["connect_args"]["server_settings"]["statement_timeout"]
        == "1500"
    )
    assert "statement_timeout=1500" in plan(PSYCOPG, settings=settings).arguments["connect_args"]["options"]
    mysql = plan("mysql+asyncmy://h/d", settings=settings).arguments["connect_args"]["init_command"]
    assert "max_statement_time=1.5" in mysql
    assert "max_execution_time=1500" in mysql


def test_mysql_url_parameters_beat_ours():
    found = plan("mysql+asyncmy://h/d?charset=latin1").arguments["connect_args"]
    assert "charset" not in found


def test_memory_database_has_one_connection_whatever_is_asked():
    found = plan("sqlite+aiosqlite:///:memory:", pool_size=20, max_overflow=10)
    assert (found.arguments["pool_size"], found.arguments["max_overflow"]) == (1, 0)
    assert found.sqlite.is_memory


@pytest.mark.parametrize(
    ("url", "is_memory"),
    [
        ("sqlite+aiosqlite://", True),
        ("sqlite+aiosqlite:///file:a?mode=memory&cache=shared&uri=true", True),
        ("sqlite+aiosqlite:///file::memory:?cache=shared&uri=true", True),
        ("sqlite+aiosqlite:///a.db", False),
    ],
)
def test_memory_databases_are_told_from_files(url, is_memory):
    assert plan(url).sqlite.is_memory is is_memory


def test_create_engine_is_asyncio_for_settings_and_blocking_for_a_url():
    from_settings = create_engine(DatabaseSettings(url=PSYCOPG))
    from_url = create_engine(PSYCOPG)
    assert isinstance(from_settings, AsyncEngine)
    assert isinstance(from_url, Engine)
    assert isinstance(from_url.pool, QueuePool)
    assert create_session_factory(from_settings).kw["expire_on_commit"] is False
    assert create_session_factory(from_url).kw["autoflush"] is False


def test_create_engine_turns_an_asyncio_url_into_its_blocking_twin():
    assert create_engine(ASYNCPG).url.drivername == "postgresql+psycopg"


@pytest.mark.parametrize("url", [ASYNCPG, make_url(ASYNCPG), None])
def test_create_async_engine_takes_a_url_or_the_environment(monkeypatch, url):
    monkeypatch.setenv("DATABASE_URL", ASYNCPG)
    engine = create_async_engine(url)
    assert engine.dialect.driver == "asyncpg"
    assert "p@h" not in repr(engine)


def test_something_else_is_refused():
    with pytest.raises(TypeError, match="not int"):
        create_async_engine(5)  # type: ignore[arg-type]


def test_pool_variables_of_the_environment_apply_to_an_explicit_url(monkeypatch):
    monkeypatch.setenv("DB_POOL_SIZE", "3")
    monkeypatch.setenv("SQLALCHEMY_ECHO", "false")
    assert create_async_engine(ASYNCPG).pool.size() == 3
