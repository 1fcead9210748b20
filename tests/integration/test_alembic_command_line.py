"""The ``alembic`` command with our env.py, and with an env.py of one's own that borrows the URL and the filter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import alembic
import pytest

MODELS = """
import sqlalchemy as sa
from sqlalchemy.orm import registry

mapper_registry = registry()

class User:
    pass

def map_all_tables():
    users = sa.Table(
        "users",
        mapper_registry.metadata,
        sa.Column("id", sa.UUID(), primary_key=True),
        sa.Column("username", sa.String(32), nullable=False, unique=True),
        sa.Column("is_active", sa.Boolean(), nullable=False, server_default=sa.true()),
    )
    mapper_registry.map_imperatively(User, users)
"""

OUR_ENV = """
from dotmac.database.alembic import run_migrations
from shop_models import map_all_tables, mapper_registry

map_all_tables()
run_migrations(mapper_registry)
"""

OWN_ENV = """
import asyncio

from alembic import context
from sqlalchemy import pool
from sqlalchemy.ext.asyncio import async_engine_from_config

from dotmac.database.alembic import get_alembic_config_url, include_object
from shop_models import map_all_tables, mapper_registry

map_all_tables()
config = context.config
config.set_main_option("sqlalchemy.url", get_alembic_config_url())

def wanted(object, name, type_, reflected, compare_to):
    return include_object(object, name, type_, reflected, compare_to, skip_schemas={"pg_catalog"}, skip_views=True)

def migrate(connection):
    context.configure(connection=connection, target_metadata=mapper_registry.metadata, include_object=wanted)
    with context.begin_transaction():
        context.run_migrations()

async def main():
    engine = async_engine_from_config(
        config.get_section(config.config_ini_section), prefix="sqlalchemy.", poolclass=pool.NullPool
    )
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()

if context.is_offline_mode():
    context.configure(
        url=config.get_main_option("sqlalchemy.url"), target_metadata=mapper_registry.metadata, literal_binds=True
    )
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(main())
"""

INI = """
[alembic]
script_location = %(here)s/migrations
prepend_sys_path = %(here)s
path_separator = os
sqlalchemy.url = driver://user:pass@localhost/dbname

[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = plain
[logger_root]
level = INFO
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = plain
[formatter_plain]
format = %(levelname)s [%(name)s] %(message)s
"""


class Project:
    """A project on disk, worked on with the ``alembic`` command."""

    def __init__(self, root: Path, env: str) -> None:
        self.root = root
        (root / "migrations/versions").mkdir(parents=True)
        (root / "migrations/env.py").write_text(env)
        (root / "shop_models.py").write_text(MODELS)
        (root / "alembic.ini").write_text(INI)
        shutil.copy(Path(alembic.__file__).parent / "templates/generic/script.py.mako", root / "migrations")

    def alembic(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "DB_"))
        }
        return subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=self.root,
            env=kept | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
def url(dotmac_postgres):
    name = f"commands_{uuid.uuid4().hex[:12]}"
    dotmac_postgres.create_database(name)
    yield dotmac_postgres.url(name, driver="asyncpg", role="app")
    dotmac_postgres.drop_database(name)


@pytest.mark.parametrize("env", [OUR_ENV, OWN_ENV], ids=["our env", "own env"])
def test_the_whole_cycle_works_from_the_command_line(env, url, tmp_path):
    project = Project(tmp_path, env)
    for arguments in (
        ["revision", "--autogenerate", "-m", "users"],
        ["upgrade", "head"],
        ["check"],
        ["history"],
        ["downgrade", "-1"],
        ["upgrade", "head"],
    ):
        done = project.alembic(*arguments, DATABASE_URL=url)
        assert done.returncode == 0, done.stderr
    assert "users" in project.alembic("current", "--verbose", DATABASE_URL=url).stdout
    script = project.alembic("upgrade", "head", "--sql", DATABASE_URL=url).stdout
    assert "CREATE TABLE users" in script


def test_the_url_on_the_command_line_wins_and_shows_no_password(url, tmp_path):
    project = Project(tmp_path, OUR_ENV)
    project.alembic("revision", "-m", "nothing", "--rev-id", "r1")
    done = project.alembic(
        "-x", f"url={url}", "upgrade", "head", DATABASE_URL="postgresql://u:hidden-word@127.0.0.1:1/none"
    )
    assert done.returncode == 0, done.stderr
    assert "Running upgrade" in done.stderr
    done = project.alembic(
        "upgrade", "head", DATABASE_URL="postgresql+asyncpg://u:hidden-word@127.0.0.1:1/none"
    )
    assert done.returncode != 0
    assert "hidden-word" not in done.stdout + done.stderr


def test_without_any_url_the_error_says_where_to_put_one(tmp_path):
    done = Project(tmp_path, OUR_ENV).alembic("upgrade", "head")
    assert done.returncode != 0
    assert "Set DATABASE_URL" in done.stderr
