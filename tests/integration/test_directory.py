from __future__ import annotations

import asyncio
import uuid

import pytest
from sqlalchemy import Column, Enum, ForeignKey, Integer, MetaData, String, Table, pool, text

from dotmac.database import create_async_engine
from dotmac.database.errors import (
    ConfigurationError,
    SchemaError,
    TenantExistsError,
    TenantNotFoundError,
    ValidationError,
)
from dotmac.database.tenancy import DirectoryOptions, IsolationMode, TenantDirectory

METADATA = MetaData()
COUNTRIES = Table("directory_countries", METADATA, Column("id", Integer, primary_key=True))
CUSTOMERS = Table(
    "directory_customers",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("tenant_id", String(63), index=True, nullable=False),
    Column("country_id", ForeignKey("directory_countries.id")),
)
NOTES = Table(
    "directory_notes",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("customer_id", ForeignKey("directory_customers.id"), nullable=False),
)


@pytest.fixture(params=["asyncpg", "psycopg"])
async def engine(request, dotmac_postgres):
    """On a database of the test's own."""
    name = f"directory_{uuid.uuid4().hex[:12]}"
    dotmac_postgres.create_database(name)
    engine = create_async_engine(dotmac_postgres.url(name, driver=request.param), poolclass=pool.NullPool)
    yield engine
    await engine.dispose()
    dotmac_postgres.drop_database(name)


@pytest.fixture
async def directory(engine):
    directory = TenantDirectory(engine, DirectoryOptions(metadata=METADATA))
    await directory.install()
    await _run(engine, "CREATE TABLE shared.directory_countries (id int PRIMARY KEY)")
    return directory


async def _run(engine, sql):
    async with engine.begin() as connection:
        return await connection.execute(text(sql))


async def _tables(engine, schema):
    async with engine.connect() as connection:
        found = await connection.scalars(
            text("SELECT table_name FROM information_schema.tables WHERE table_schema = :schema"),
            {"schema": schema},
        )
        return set(found)


async def test_a_new_schema_has_the_tenants_tables_and_refers_to_shared_ones(engine, directory):
    acme = await directory.create("acme-inc", mode="schema", name="Acme, Inc.")
    assert (acme.schema, acme.mode, acme.is_owned) == ("tenant_acme__inc", IsolationMode.SCHEMA, True)
    assert await _tables(engine, acme.schema) == {"directory_customers", "directory_notes"}
    async with engine.connect() as connection:
        referred = await connection.scalars(
            text(
                "SELECT confrelid::regclass::text FROM pg_constraint WHERE contype = 'f' "
                "AND connamespace = 'tenant_acme__inc'::regnamespace ORDER BY 1"
            )
        )
        assert list(referred) == ["shared.directory_countries", "tenant_acme__inc.directory_customers"]


async def test_a_tenant_is_found_by_id_and_by_slug(directory):
    acme = await directory.create("acme", mode="schema")
    assert await directory.get(acme.id) == acme
    assert await directory.get_by_slug("acme") == acme
    assert await directory.resolve("acme") == acme
    placement = await directory.placement_of(acme.id)
    assert (placement.schema, placement.shared_schema, placement.mode) == ("tenant_acme", "shared", "schema")


async def test_resolving_again_asks_nothing(engine, directory, count_statements):
    acme = await directory.create("acme")
    await directory.placement_of(acme.id)
    with count_statements(engine, exactly=0):
        await directory.placement_of(acme.id)
        await directory.resolve("acme")


async def test_many_who_want_one_tenant_at_once_ask_once(engine, directory, count_statements):
    acme = await directory.create("acme")
    with count_statements(engine, exactly=1):
        await asyncio.gather(*(directory.placement_of(acme.id) for _ in range(50)))


async def test_an_unknown_tenant_is_an_error(directory):
    for asked in (directory.get("nobody"), directory.placement_of("nobody"), directory.resolve("nobody")):
        with pytest.raises(TenantNotFoundError, match="'nobody'"):
            await asked


async def test_a_taken_slug_id_or_schema_is_refused_and_nothing_is_left(engine, directory):
    await directory.create("acme", mode="schema", tenant_id="t1")
    for arguments in (
        {"slug": "acme"},
        {"slug": "other", "tenant_id": "t1"},
        {"slug": "other", "tenant_id": "T1"},
        {"slug": "other", "mode": "schema", "schema": "tenant_acme"},
    ):
        with pytest.raises(TenantExistsError):
            await directory.create(**arguments)
    assert [tenant.slug for tenant in await directory.list()] == ["acme"]


async def test_of_two_who_create_one_slug_at_once_one_wins(engine, directory):
    outcomes = await asyncio.gather(
        *(directory.create("acme", mode="schema") for _ in range(4)), return_exceptions=True
    )
    assert sum(isinstance(outcome, TenantExistsError) for outcome in outcomes) == 3
    assert await _tables(engine, "tenant_acme") == {"directory_customers", "directory_notes"}


async def test_a_schema_that_exists_is_never_taken_over(engine, directory):
    await _run(engine, "CREATE SCHEMA tenant_acme")
    with pytest.raises(SchemaError, match="exists already"):
        await directory.create("acme", mode="schema")
    assert await directory.list() == []
    assert await _tables(engine, "tenant_acme") == set()


async def test_a_script_that_fails_in_the_middle_leaves_nothing(engine, directory):
    await _run(engine, "DROP TABLE shared.directory_countries")
    with pytest.raises(SchemaError, match="42P01"):
        await directory.create("acme", mode="schema")
    assert await directory.list() == []
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT to_regnamespace('tenant_acme')"))).scalar() is None


async def test_a_tenants_table_in_the_shared_schema_is_refused(engine, directory):
    await _run(engine, "CREATE TABLE shared.directory_notes (id int)")
    with pytest.raises(SchemaError, match="directory_notes"):
        await directory.create("acme", mode="schema")


async def test_hostile_names_never_reach_the_server(engine, directory, count_statements):
    with count_statements(engine, exactly=0):
        for hostile in ("x'; --", "a\0", "Ａ", "%", "public"):  # noqa: RUF001 - a full-width letter is the point
            for asked in (directory.create(hostile), directory.get(hostile), directory.resolve(hostile)):
                with pytest.raises(ValidationError):
                    await asked


async def test_without_its_table_the_directory_says_what_to_do(engine):
    with pytest.raises(ConfigurationError, match="tenant init"):
        await TenantDirectory(engine).list()


async def test_an_enumeration_of_the_servers_own_is_refused(engine):
    metadata = MetaData()
    Table(
        "directory_orders",
        metadata,
        Column("tenant_id", String(63), primary_key=True),
        Column("state", Enum("open", "paid", name="order_state")),
    )
    directory = TenantDirectory(engine, DirectoryOptions(metadata=metadata))
    await directory.install()
    with pytest.raises(SchemaError, match=r"directory_orders\.state has a type of the database"):
        await directory.create("acme", mode="schema")


async def test_installing_twice_at_once_does_no_harm(engine):
    directory = TenantDirectory(engine)
    await asyncio.gather(*(directory.install() for _ in range(3)))
    assert await directory.list() == []
