"""One env.py serves every driver, both colours, autocommit blocks, and two deployers at once."""

from __future__ import annotations

import asyncio
import io
import shutil
import threading
import uuid
from datetime import timedelta
from pathlib import Path

import alembic
import pytest
from alembic import command
from sqlalchemy import MetaData, create_engine, inspect, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from dotmac.database.alembic import alembic_config, current, downgrade, upgrade
from dotmac.database.alembic._locks import migrator_lock
from dotmac.database.errors import MigrationLockedError

POSTGRES = ("asyncpg", "psycopg", "psycopg_async")
SQLITE = ("pysqlite", "aiosqlite")
MYSQL = ("pymysql", "asyncmy", "aiomysql")

ENV = """
from alembic import context
from dotmac.database.alembic import run_migrations

run_migrations(context.config.attributes.get("metadata"), **context.config.attributes.get("options", {}))
"""

REVISION = """
import sqlalchemy as sa
from alembic import context, op

revision = {revision!r}
down_revision = {down!r}

def upgrade():
    {upgrade}

def downgrade():
    {downgrade}
"""

CREATE_ITEM = (
    "op.create_table('item', sa.Column('id', sa.Integer, primary_key=True), sa.Column('name', sa.String(50)))"
)
DROP_ITEM = "op.drop_table('item')"
CONCURRENT_INDEX = """
    op.execute("INSERT INTO item (id, name) VALUES (1, 'one')")
    with op.get_context().autocommit_block():
        op.create_index('ix_item_name', 'item', ['name'], postgresql_concurrently=True)
    op.add_column('item', sa.Column('size', sa.Integer))
"""


class Project:
    """A migrations directory whose revisions the test writes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "versions").mkdir(parents=True)
        (directory / "env.py").write_text(ENV)
        shutil.copy(Path(alembic.__file__).parent / "templates/generic/script.py.mako", directory)
        self.last: str | None = None

    def add(self, revision: str, upgrade: str, downgrade: str = "pass") -> None:
        body = REVISION.format(
            revision=revision, down=self.last, upgrade=upgrade.strip(), downgrade=downgrade.strip()
        )
        (self.directory / "versions" / f"{revision}.py").write_text(body)
        self.last = revision

    def config(self, url, *, metadata=None, **options):
        config = alembic_config(self.directory, url=url)
        config.attributes.update(metadata=metadata, options=options)
        return config


class WaitingDeployers:
    """Others that want the migration lock; `start` returns when all of them are seen waiting."""

    def __init__(self, url: str, *, count: int) -> None:
        self.url = url
        self.outcomes: list[str] = []
        self.threads = [threading.Thread(target=self._wait_for_the_lock) for _ in range(count)]

    def _wait_for_the_lock(self) -> None:
        with (
            create_engine(blocking(self.url), poolclass=NullPool).connect() as connection,
            migrator_lock(connection, name=".alembic_version", wait=timedelta(minutes=1)),
        ):
            self.outcomes.append("locked")

    def start(self) -> None:
        for thread in self.threads:
            thread.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND datname = current_database()"
        while run_sql(self.url, waiting) != [(len(self.threads),)]:
            pass

    def join(self) -> list[str]:
        for thread in self.threads:
            thread.join()
        return self.outcomes


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path / "migrations")


@pytest.fixture
def fresh_postgres(dotmac_postgres):
    """A database of the test's own: (driver) -> URL."""
    name = f"alembic_{uuid.uuid4().hex[:12]}"
    dotmac_postgres.create_database(name)
    yield lambda driver: dotmac_postgres.url(name, driver=driver, role="admin")
    dotmac_postgres.drop_database(name)


@pytest.fixture
def fresh_url(request, tmp_path):
    """(driver) -> URL of an empty database."""
    made: list[tuple[str, str]] = []

    def of(driver: str) -> str:
        if driver in POSTGRES:
            return request.getfixturevalue("fresh_postgres")(driver)
        if driver in SQLITE:
            return f"sqlite+{driver}:///{tmp_path}/data.db"
        server = make_url(request.getfixturevalue("mysql_url")).set(drivername="mysql+pymysql")
        name = f"alembic_{uuid.uuid4().hex[:12]}"
        run_sql(server.render_as_string(hide_password=False), f"CREATE DATABASE {name}")
        made.append((server.render_as_string(hide_password=False), name))
        return server.set(drivername=f"mysql+{driver}", database=name).render_as_string(hide_password=False)

    yield of
    for server, name in made:
        run_sql(server, f"DROP DATABASE {name}")


def blocking(url: str) -> str:
    twins = {
        "postgresql": "postgresql+psycopg",
        "sqlite": "sqlite+pysqlite",
        "mysql": "mysql+pymysql",
    }
    parsed = make_url(url)
    return parsed.set(drivername=twins[parsed.get_backend_name()]).render_as_string(hide_password=False)


def run_sql(url: str, statement: str):
    engine = create_engine(blocking(url), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        result = connection.execute(text(statement))
        return result.all() if result.returns_rows else None


def tables(url: str) -> set[str]:
    with create_engine(blocking(url), poolclass=NullPool).connect() as connection:
        return set(inspect(connection).get_table_names())


@pytest.mark.parametrize("driver", [*POSTGRES, *SQLITE, *MYSQL])
def test_upgrade_current_and_downgrade_work_on_every_driver(driver, fresh_url, project):
    url = fresh_url(driver)
    project.add("r1", CREATE_ITEM, DROP_ITEM)
    assert current(project.directory, url=url) == ()
    upgrade(project.directory, url=url)
    assert current(project.directory, url=url) == ("r1",)
    assert "item" in tables(url)
    downgrade(project.directory, "base", url=url)
    assert current(project.directory, url=url) == ()
    assert "item" not in tables(url)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "aiosqlite", "asyncmy"])
async def test_upgrade_works_while_a_loop_is_running(driver, fresh_url, project):
    url = fresh_url(driver)
    project.add("r1", CREATE_ITEM)
    upgrade(project.directory, url=url)
    assert "item" in tables(url)


async def test_an_env_that_meets_a_running_loop_uses_a_loop_of_its_own(fresh_url, project):
    url = fresh_url("asyncpg")
    project.add("r1", CREATE_ITEM)
    command.upgrade(project.config(url), "head")
    assert "item" in tables(url)


@pytest.mark.parametrize("driver", POSTGRES)
def test_an_index_is_created_concurrently_in_an_autocommit_block(driver, fresh_url, project):
    url = fresh_url(driver)
    project.add("r1", CREATE_ITEM)
    project.add("r2", CONCURRENT_INDEX)
    project.add("r3", "op.add_column('item', sa.Column('colour', sa.String(9)))")
    upgrade(project.directory, url=url)
    valid = run_sql(url, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_item_name'::regclass")
    assert valid == [(True,)]
    assert current(project.directory, url=url) == ("r3",)


def test_deployers_that_wait_do_not_block_a_concurrent_index(fresh_url, project):
    url = fresh_url("asyncpg")
    project.add("r1", CREATE_ITEM)
    project.add("r2", "context.config.attributes['deployers'].start()\n" + CONCURRENT_INDEX)
    deployers = WaitingDeployers(url, count=3)
    config = project.config(url)
    config.attributes["deployers"] = deployers
    upgrade(config)
    assert deployers.join() == ["locked"] * 3
    assert current(project.directory, url=url) == ("r2",)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "pymysql"])
def test_a_migration_waits_for_another_migrator_and_then_gives_up(driver, fresh_url, project):
    url = fresh_url(driver)
    project.add("r1", CREATE_ITEM)
    engine = create_engine(blocking(url), poolclass=NullPool)
    with (
        engine.connect() as other,
        migrator_lock(other, name=".alembic_version", wait=timedelta(0)),
        pytest.raises(MigrationLockedError, match="Another process"),
    ):
        upgrade(project.config(url, migrator_wait=timedelta(0)))
    assert tables(url) == set()
    upgrade(project.config(url, migrator_wait=timedelta(0)))
    assert "item" in tables(url)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "pymysql"])
def test_a_statement_gives_up_on_a_held_lock_and_says_what_to_do(driver, fresh_url, project):
    url = fresh_url(driver)
    project.add("r1", CREATE_ITEM)
    project.add("r2", "op.add_column('item', sa.Column('size', sa.Integer))")
    upgrade(project.directory, "r1", url=url)
    engine = create_engine(blocking(url), poolclass=NullPool)
    with engine.connect() as other:
        other.execute(text("SELECT * FROM item"))
        with pytest.raises(DBAPIError) as caught:
            upgrade(project.config(url, lock_timeout=timedelta(milliseconds=50)))
    assert "lock_timeout" in caught.value.__notes__[0]
    assert current(project.directory, url=url) == ("r1",)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_a_failed_revision_keeps_those_before_it_and_undoes_itself(driver, fresh_url, project):
    url = fresh_url(driver)
    project.add("r1", CREATE_ITEM)
    project.add("r2", "op.create_table('half', sa.Column('id', sa.Integer))\n    op.execute('SELECT 1/0')")
    with pytest.raises(DBAPIError):
        upgrade(project.directory, url=url)
    assert current(project.directory, url=url) == ("r1",)
    assert tables(url) == {"item", "alembic_version"}


@pytest.mark.parametrize("driver", SQLITE)
def test_a_failed_run_on_sqlite_leaves_nothing_behind(driver, fresh_url, project):
    url = fresh_url(driver)
    project.add("r1", CREATE_ITEM)
    project.add(
        "r2",
        "op.create_table('half', sa.Column('id', sa.Integer))\n    op.execute('SELECT no_such_function()')",
    )
    with pytest.raises(DBAPIError):
        upgrade(project.directory, url=url)
    assert tables(url) == set()


@pytest.mark.parametrize("driver", SQLITE)
def test_an_autocommit_block_works_on_sqlite(driver, fresh_url, project):
    url = fresh_url(driver)
    project.add("r1", CREATE_ITEM)
    project.add(
        "r2", "with op.get_context().autocommit_block():\n        op.execute('PRAGMA foreign_keys = OFF')"
    )
    upgrade(project.directory, url=url)
    assert current(project.directory, url=url) == ("r2",)


@pytest.mark.parametrize("driver", ["asyncpg", "aiosqlite"])
def test_a_revision_reads_a_table_it_altered(driver, fresh_url, project):
    url = fresh_url(driver)
    read = "op.get_bind().execute(sa.text('SELECT * FROM item')).all()"
    project.add("r1", CREATE_ITEM)
    project.add("r2", f"{read}\n    op.add_column('item', sa.Column('size', sa.Integer))\n    {read}")
    upgrade(project.directory, url=url)
    assert current(project.directory, url=url) == ("r2",)


def test_several_statements_in_one_string_are_explained_on_asyncpg(fresh_url, project):
    project.add("r1", "op.execute('SELECT 1; SELECT 2')")
    with pytest.raises(DBAPIError) as caught:
        upgrade(project.directory, url=fresh_url("asyncpg"))
    assert "one statement at a time" in caught.value.__notes__[0]


def test_a_statement_that_needs_autocommit_is_explained(fresh_url, project):
    project.add("r1", CREATE_ITEM)
    project.add("r2", "op.create_index('ix', 'item', ['name'], postgresql_concurrently=True)")
    with pytest.raises(DBAPIError) as caught:
        upgrade(project.directory, url=fresh_url("psycopg"))
    assert "autocommit_block" in caught.value.__notes__[0]


def test_a_given_connection_is_used_and_left_as_it_was(fresh_url, project):
    url = fresh_url("psycopg")
    project.add("r1", CREATE_ITEM)
    project.add("r2", CONCURRENT_INDEX)
    with create_engine(url, poolclass=NullPool).connect() as connection:
        upgrade(project.directory, connection=connection)
        assert not connection.in_transaction()
        assert connection.scalar(text("SELECT current_setting('lock_timeout')")) == "0"
        assert connection.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) == 0


def test_a_given_connection_in_a_transaction_migrates_inside_it(fresh_url, project):
    url = fresh_url("psycopg")
    project.add("r1", CREATE_ITEM)
    with create_engine(url, poolclass=NullPool).connect() as connection:
        with connection.begin() as transaction:
            upgrade(project.directory, connection=connection)
            assert connection.scalar(text("SELECT count(*) FROM item")) == 0
            transaction.rollback()
        assert connection.scalar(text("SELECT current_setting('lock_timeout')")) == "0"
    assert tables(url) == set()


@pytest.mark.parametrize("driver", ["asyncpg", "aiosqlite"])
async def test_an_async_connection_migrates_through_run_sync(driver, fresh_url, project):
    url = fresh_url(driver)
    project.add("r1", CREATE_ITEM)
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(lambda usable: upgrade(project.directory, connection=usable))
    await engine.dispose()
    assert "item" in tables(url)


async def test_an_async_connection_itself_is_refused_with_the_way_to_do_it(fresh_url, project):
    engine = create_async_engine(fresh_url("asyncpg"), poolclass=NullPool)
    async with engine.connect() as connection:
        with pytest.raises(TypeError, match="run_sync"):
            upgrade(project.directory, connection=connection)
    await engine.dispose()


async def test_migrations_in_tasks_and_threads_take_turns(fresh_url, project, dotmac_postgres):
    url = fresh_url("asyncpg")
    project.add("r1", CREATE_ITEM)
    engine = create_async_engine(url, poolclass=NullPool)

    async def by_connection() -> None:
        async with engine.connect() as connection:
            await connection.run_sync(lambda usable: upgrade(project.directory, connection=usable))

    await asyncio.gather(
        *(by_connection() for _ in range(3)),
        *(asyncio.to_thread(upgrade, project.directory, url=url) for _ in range(3)),
    )
    await engine.dispose()
    assert current(project.directory, url=url) == ("r1",)


def test_the_version_table_gets_its_schema(fresh_url, project):
    url = fresh_url("asyncpg")
    project.add("r1", CREATE_ITEM)
    upgrade(project.config(url, version_table_schema="bookkeeping"))
    assert run_sql(url, "SELECT version_num FROM bookkeeping.alembic_version") == [("r1",)]


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_offline_mode_writes_sql_that_runs(driver, fresh_url, project):
    url = fresh_url(driver)
    project.add("r1", CREATE_ITEM)
    project.add("r2", CONCURRENT_INDEX)
    config = project.config(url, metadata=MetaData())
    config.output_buffer = io.StringIO()
    command.upgrade(config, "head", sql=True)
    script = config.output_buffer.getvalue()
    assert tables(url) == set()
    assert script.startswith("SET lock_timeout = '5000ms';")
    for statement in script.split(";\n"):
        without_comments = "\n".join(line for line in statement.splitlines() if not line.startswith("--"))
        if without_comments.strip() and without_comments.strip() not in {"BEGIN", "COMMIT"}:
            run_sql(url, without_comments)
    assert current(project.directory, url=url) == ("r2",)
