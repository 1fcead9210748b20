"""Code written for a layer of settings, imperative mappings and a hand-written Alembic env.py runs here."""

from __future__ import annotations

import logging
import subprocess
import sys
import uuid

import pytest
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import (
    UUID,
    Boolean,
    Column,
    DateTime,
    LargeBinary,
    String,
    Table,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.orm import registry

from dotmac.database import (
    DatabaseSettings,
    create_async_repository,
    create_engine,
    create_session_factory,
    get_session,
    uuid7,
    wait_until_ready,
)
from dotmac.database.errors import DatabaseUnavailableError

mapper_registry = registry()


class Account:
    """An entity that knows of no database."""

    def __init__(self, username, password_hash):
        self.username = username
        self.password_hash = password_hash


def an_account(name):
    account = Account(name, b"hash")
    account.id = uuid7()
    return account


class Mapped:
    """Where the fixtures find the table."""

    __table__ = Table(
        "clean_accounts",
        mapper_registry.metadata,
        Column("id", UUID(), primary_key=True),
        Column("username", String(32), nullable=False, unique=True),
        Column("password_hash", LargeBinary(), nullable=False),
        Column("is_active", Boolean(), nullable=False, server_default="true"),
        Column("created_at", DateTime(timezone=True), server_default=func.now()),
    )


mapper_registry.map_imperatively(Account, Mapped.__table__)

MODELS = [Mapped]


class Settings(BaseSettings):
    """An application's settings, the database's among them."""

    model_config = SettingsConfigDict(env_nested_delimiter="__")

    database: DatabaseSettings = DatabaseSettings()


@pytest.fixture
def parts(tables, database_url):
    """Where the module's database is, in parts."""
    url = tables.url
    del database_url
    return {
        "host": url.host,
        "port": url.port,
        "user": url.username,
        "password": url.password,
        "database": url.database,
    }


def test_settings_have_defaults_for_every_part(monkeypatch):
    for name in ("DATABASE_URL", "DATABASE_HOST", "DB_HOST", "POSTGRES_HOST"):
        monkeypatch.delenv(name, raising=False)
    settings = DatabaseSettings()
    assert (settings.host, settings.port, settings.user, settings.database) == (
        "localhost",
        5432,
        "postgres",
        "app",
    )
    assert settings.password.get_secret_value() == "postgres"
    assert (settings.pool_size, settings.max_overflow) == (10, 20)
    assert (settings.pool_timeout, settings.pool_recycle) == (30, 1800)
    assert (settings.echo, settings.echo_pool) == (False, False)
    assert settings.url == "postgresql+psycopg://postgres:postgres@localhost:5432/app"
    assert settings.sync_url == "postgresql+psycopg://postgres:postgres@localhost:5432/app"


def test_parts_nest_in_an_applications_settings(monkeypatch):
    monkeypatch.setenv("DATABASE__HOST", "db")
    monkeypatch.setenv("DATABASE__PASSWORD", "p@ss/word")
    database = Settings().database
    assert database.host == "db"
    assert database.url == "postgresql+psycopg://postgres:p%40ss%2Fword@db:5432/app"


async def test_engine_and_session_factory_come_from_settings(parts):
    engine = create_engine(DatabaseSettings(**parts, pool_size=3, max_overflow=1))
    assert (engine.dialect.driver, engine.pool.size()) == ("psycopg", 3)
    session_factory = create_session_factory(engine)
    async with session_factory() as session:
        assert (session.sync_session.autoflush, session.sync_session.expire_on_commit) == (False, False)
        assert (await session.execute(select(1))).scalar() == 1
    await engine.dispose()


async def test_get_session_closes_and_leaves_the_commit_to_the_block(parts):
    engine = create_engine(DatabaseSettings(**parts))
    session_factory = create_session_factory(engine)
    name = uuid.uuid4().hex
    async with get_session(session_factory) as session:
        session.add(an_account(name))
        await session.flush()
    async with get_session(session_factory) as session:
        wanted = select(func.count()).select_from(Account).where(Mapped.__table__.c.username == name)
        assert await session.scalar(wanted) == 0
        session.add(an_account(name))
        await session.commit()
    async with get_session(session_factory) as session:
        assert await session.scalar(wanted) == 1
    await engine.dispose()


async def test_imperative_mappings_work_in_repositories(engine):
    async with get_session(create_session_factory(engine)) as session:
        repo = create_async_repository(session, Account)
        account = await repo.create({"username": uuid.uuid4().hex, "password_hash": b"hash"})
        assert (type(account), account.id.version) == (Account, 7)
        assert await repo.get_by_field("username", account.username) is account
        assert account.is_active is True


ENV = """
import asyncio
from logging.config import fileConfig

from alembic import context
from sqlalchemy import pool
from sqlalchemy.ext.asyncio import async_engine_from_config

from dotmac.database import DatabaseSettings
from account_mappings import map_all_tables, mapper_registry

map_all_tables()
config = context.config
if config.config_file_name is not None:
    fileConfig(config.config_file_name)
target_metadata = mapper_registry.metadata

def get_url() -> str:
    return DatabaseSettings().sync_url

def run_migrations_offline() -> None:
    context.configure(
        url=get_url(), target_metadata=target_metadata, literal_binds=True, dialect_opts={"paramstyle": "named"},
        compare_type=True, compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()

def do_run_migrations(connection) -> None:
    context.configure(
        connection=connection, target_metadata=target_metadata, compare_type=True, compare_server_default=True
    )
    with context.begin_transaction():
        context.run_migrations()

async def run_async_migrations() -> None:
    configuration = config.get_section(config.config_ini_section) or {}
    configuration["sqlalchemy.url"] = get_url()
    connectable = async_engine_from_config(configuration, prefix="sqlalchemy.", poolclass=pool.NullPool)
    async with connectable.connect() as connection:
        await connection.run_sync(do_run_migrations)
    await connectable.dispose()

if context.is_offline_mode():
    run_migrations_offline()
else:
    asyncio.run(run_async_migrations())
"""

OUR_ENV = """
from dotmac.database.alembic import run_migrations
from account_mappings import map_all_tables, mapper_registry

map_all_tables()
run_migrations(mapper_registry)
"""

MAPPINGS = """
import sqlalchemy as sa
from sqlalchemy.orm import registry

mapper_registry = registry()

class Member:
    pass

def map_all_tables():
    members = sa.Table(
        "members", mapper_registry.metadata,
        sa.Column("id", sa.UUID(), primary_key=True),
        sa.Column("username", sa.String(32), nullable=False, unique=True, index=True),
        sa.Column("role", sa.Enum("USER", "ADMIN", name="memberrole", create_type=False), server_default="USER"),
        sa.Column("is_active", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
    )
    mapper_registry.map_imperatively(Member, members)
"""

REVISION = """
import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "001"
down_revision = None
branch_labels = None
depends_on = None

def upgrade() -> None:
    op.execute("CREATE TYPE memberrole AS ENUM ('USER', 'ADMIN')")
    op.create_table(
        "members",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("username", sa.String(32), nullable=False),
        sa.Column("role", postgresql.ENUM(name="memberrole", create_type=False), server_default="USER"),
        sa.Column("is_active", sa.Boolean(), nullable=False, server_default="true"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_members_username", "members", ["username"], unique=True)

def downgrade() -> None:
    op.drop_index("ix_members_username")
    op.drop_table("members")
    op.execute("DROP TYPE memberrole")
"""

INI = """
[alembic]
script_location = %(here)s/migrations
prepend_sys_path = %(here)s
path_separator = os

[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = plain
[logger_root]
level = WARNING
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = plain
[formatter_plain]
format = %(message)s
"""


@pytest.mark.parametrize("env", [ENV, OUR_ENV], ids=["hand-written", "one call"])
def test_alembic_runs_with_imperative_mappings(env, tmp_path, parts, tables):
    versions = tmp_path / "migrations" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / "migrations" / "env.py").write_text(env)
    (tmp_path / "account_mappings.py").write_text(MAPPINGS)
    (tmp_path / "alembic.ini").write_text(INI)
    (versions / "001_create_members.py").write_text(REVISION)
    variables = {
        f"POSTGRES_{name.upper()}": str(value) for name, value in parts.items() if name != "database"
    }

    def alembic(*arguments):
        run = subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=tmp_path,
            env=variables | {"POSTGRES_DB": parts["database"]},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    assert "CREATE TABLE members" in alembic("upgrade", "head", "--sql")
    alembic("upgrade", "head")
    assert "001 (head)" in alembic("current")
    assert "001 (head)" in alembic("history", "--verbose").replace("Rev: ", "")
    with tables.begin() as connection:
        connection.execute(text("INSERT INTO members (id, username) VALUES (gen_random_uuid(), 'ada')"))
        assert connection.execute(text("SELECT role, is_active FROM members")).one() == ("USER", True)
    alembic("downgrade", "-1")
    assert not inspect(tables).has_table("members")


async def test_pre_start_waits_until_the_database_answers(parts, caplog):
    caplog.set_level(logging.INFO)
    await wait_until_ready(DatabaseSettings(**parts), timeout_seconds=30, interval_seconds=1)
    wrong = DatabaseSettings(**parts | {"database": "not_there"})
    with pytest.raises(DatabaseUnavailableError, match="does not exist"):
        await wait_until_ready(wrong, timeout_seconds=30)
