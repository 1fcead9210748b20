"""The same repository code where tenants have shared tables, schemas and databases of their own."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta

import pytest
from sqlalchemy import MetaData, String, insert, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Mapped, mapped_column

from dotmac.database import (
    AsyncDatabase,
    Base,
    Database,
    RequestContext,
    TenantAwareMixin,
    create_async_repository,
    create_repository,
    use_context,
    uuid7,
)
from dotmac.database.errors import (
    QuotaExceededError,
    TenantNotFoundError,
    TenantSuspendedError,
    UnprovableStatementError,
)
from dotmac.database.tenancy import (
    BlockingTenantDirectory,
    DirectoryOptions,
    Quotas,
    TenantDirectory,
    enable_row_level_security,
)
from dotmac.database.tenancy.doctor import Severity, examine


class Modes(Base):
    metadata = MetaData()


class Note(Modes, TenantAwareMixin):
    __tablename__ = "tenant_modes_notes"

    body: Mapped[str] = mapped_column(String(50))


@pytest.fixture(scope="module")
def made(dotmac_postgres):
    """Databases with a directory of tenants ``shared``, ``schema`` and ``database``; their names."""
    name = f"modes_{uuid.uuid4().hex[:12]}"
    dotmac_postgres.create_database(name)
    try:
        asyncio.run(_make(dotmac_postgres, name))
        yield name
    finally:
        dotmac_postgres.drop_database(f"{name}_own")
        dotmac_postgres.drop_database(name)


async def _make(server, name):
    async with (
        AsyncDatabase(server.url(name, role="admin")) as administrator,
        AsyncDatabase(server.url(name)) as application,
    ):
        async with application.engine.connect() as connection:
            app = (await connection.execute(text("SELECT current_user"))).scalar_one()
        async with administrator.engine.begin() as connection:
            await connection.run_sync(Modes.metadata.create_all)
            await connection.run_sync(enable_row_level_security, Modes.metadata)
            await connection.execute(
                text(f'GRANT SELECT, INSERT, UPDATE, DELETE ON tenant_modes_notes TO "{app}"')
            )
        options = DirectoryOptions(metadata=Modes.metadata, application_role=app)
        directory = TenantDirectory(administrator, options)
        await directory.install()
        for mode in ("shared", "schema", "database"):
            connection = f"{name}_own" if mode == "database" else None
            await directory.create(
                mode if mode != "shared" else "share", mode=mode, tenant_id=f"t-{mode}", connection=connection
            )
        await directory.create("other", tenant_id="t-other")
        await directory.create("second", tenant_id="t-second", mode="schema")


@pytest.fixture(params=["asyncpg", "psycopg"])
async def database(request, dotmac_postgres, made):
    urls = [dotmac_postgres.url(name, driver=request.param) for name in (made, f"{made}_own")]
    known = {}
    async with (
        AsyncDatabase(urls[0]) as plain,
        AsyncDatabase(urls[1]) as own,
        AsyncDatabase(urls[0], tenants=TenantDirectory(plain), databases=known) as database,
    ):
        known[f"{made}_own"] = own  # one that is added later is found too
        yield database


@pytest.fixture(params=["shared", "schema", "database"])
def tenant(request):
    with use_context(RequestContext(tenant_id=f"t-{request.param}")):
        yield request.param


async def test_the_same_code_serves_each_mode(database, tenant):
    async with database.create_session() as session:
        notes = create_async_repository(session, Note)
        made = await notes.create({"body": tenant})
        assert (await notes.get_by_id_or_raise(made.id)).body == tenant
    with use_context(RequestContext(tenant_id="t-other")):
        async with database.create_session() as session:
            assert await create_async_repository(session, Note).get_by_id(made.id) is None


async def test_raw_sql_reaches_no_other_tenants_schema(database, tenant):
    async with database.create_session() as session:
        with pytest.raises(UnprovableStatementError, match="tenant_second"):
            await session.execute(text("SELECT body FROM tenant_second.tenant_modes_notes"))


async def test_raw_sql_may_name_a_table_in_front_of_its_columns(database):
    with use_context(RequestContext(tenant_id="t-shared")):
        async with database.create_session() as session:
            note = await create_async_repository(session, Note).create({"body": "named"})
            statement = text(
                "SELECT tenant_modes_notes.body FROM tenant_modes_notes WHERE tenant_modes_notes.id = :id"
            )
            assert (await session.execute(statement, {"id": note.id})).scalars().all() == ["named"]


async def test_a_batch_may_be_the_first_statement_of_a_session(database, tenant):
    ids = [uuid7() for _ in range(3)]
    async with database.create_session() as session:  # psycopg sends it as a pipeline
        rows = [{"id": key, "body": "batch", "tenant_id": f"t-{tenant}"} for key in ids]
        await session.execute(insert(Note.__table__), rows)
    async with database.create_session() as session:
        notes = create_async_repository(session, Note)
        assert [(await notes.get_by_id_or_raise(key)).body for key in ids] == ["batch"] * 3


def test_blocking_code_is_served_alike(dotmac_postgres, made, tenant):
    urls = [dotmac_postgres.url(name, driver="psycopg") for name in (made, f"{made}_own")]
    with Database(urls[0]) as plain, Database(urls[1]) as own:
        directory = BlockingTenantDirectory(plain)
        with Database(urls[0], tenants=directory, databases={f"{made}_own": own}) as database:
            ids = [uuid7() for _ in range(3)]
            with database.create_session() as session:
                rows = [{"id": key, "body": "batch", "tenant_id": f"t-{tenant}"} for key in ids]
                session.execute(insert(Note.__table__), rows)
            with database.create_session() as session:
                notes = create_repository(session, Note)
                assert [notes.get_by_id_or_raise(key).body for key in ids] == ["batch"] * 3


async def test_quotas_hold_in_sessions(dotmac_postgres, made):
    async with AsyncDatabase(dotmac_postgres.url(made, role="admin")) as administrator:
        directory = TenantDirectory(
            administrator,
            DirectoryOptions(metadata=Modes.metadata, admission_timeout=timedelta(milliseconds=50)),
        )
        limited = await directory.create(
            "limited",
            quotas=Quotas(
                rows={"tenant_modes_notes": 2}, statement_timeout=timedelta(milliseconds=100), connections=1
            ),
        )
        async with AsyncDatabase(dotmac_postgres.url(made), tenants=directory) as database:
            with use_context(RequestContext(tenant_id=limited.id)):
                async with database.create_session() as session:
                    notes = create_async_repository(session, Note)
                    await notes.bulk_create([{"body": "1"}, {"body": "2"}])
                    with pytest.raises(QuotaExceededError, match="1 connections"):
                        async with database.create_session():
                            pass
                with pytest.raises(QuotaExceededError, match="2 rows of tenant_modes_notes"):
                    async with database.create_session() as session:
                        await create_async_repository(session, Note).create({"body": "3"})
                with pytest.raises(DBAPIError, match="statement timeout"):
                    async with database.create_session() as session:
                        await session.execute(text("SELECT pg_sleep(600)"))
                await directory.suspend(limited.id)
                with pytest.raises(TenantSuspendedError):
                    async with database.create_session():
                        pass
        await directory.drop(limited.id, confirm="limited")


async def test_a_tenant_that_nobody_knows_gets_no_session(database):
    with use_context(RequestContext(tenant_id="nobody")), pytest.raises(TenantNotFoundError):
        async with database.create_session():
            pass


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_statements_that_a_driver_prepared_for_one_schema_serve_the_next(dotmac_postgres, made, driver):
    url = dotmac_postgres.url(made, driver=driver)
    async with AsyncDatabase(url) as plain:
        one_connection = {"pool_size": 1, "max_overflow": 0}
        async with AsyncDatabase(url, tenants=TenantDirectory(plain), **one_connection) as database:
            for number in range(8):  # psycopg prepares what it has sent five times
                for tenant_id in ("t-schema", "t-second"):
                    with use_context(RequestContext(tenant_id=tenant_id)):
                        async with database.create_session() as session:
                            notes = create_async_repository(session, Note)
                            kept = await notes.create({"body": f"{driver} {number}"})
                            assert {note.tenant_id for note in await notes.list()} == {tenant_id}
                            assert await notes.get_by_id(kept.id) == kept


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        ("SELECT 1", []),
        ("GRANT SELECT ON admin.tenant_rows TO PUBLIC", ["rls-off"]),
        ("GRANT SELECT (row_count) ON admin.tenant_rows TO PUBLIC", ["rls-off"]),
        ("GRANT EXECUTE ON FUNCTION admin.count_tenant_rows() TO PUBLIC", ["function-of-owner"]),
        ("ALTER FUNCTION admin.count_tenant_rows() RESET search_path", ["function-of-owner"]),
    ],
)
async def test_the_doctor_trusts_the_directory_while_it_is_its_owners_alone(
    dotmac_postgres, made, change, codes
):
    async with (
        AsyncDatabase(dotmac_postgres.url(made)) as application,
        AsyncDatabase(dotmac_postgres.url(made, role="admin")) as administrator,
        administrator.engine.connect() as connection,
    ):
        async with application.engine.connect() as other:
            app = (await other.execute(text("SELECT current_user"))).scalar_one()
        await connection.execute(text(change))  # rolled back
        findings = await connection.run_sync(lambda sync: examine(sync, Modes.metadata, roles=[app]))
        errors = [finding for finding in findings if finding.severity is Severity.ERROR]
        assert [finding.code for finding in errors if "admin" in finding.object] == codes
