# ruff: noqa: S608 - names are the test's own
from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta

import pytest
from sqlalchemy import (
    DDL,
    Column,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    event,
    make_url,
    pool,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import registry

from dotmac.database import create_async_engine, create_async_repository, create_session_factory
from dotmac.database.errors import (
    ConfigurationError,
    QuotaExceededError,
    SchemaError,
    TenantExistsError,
    TenantNotFoundError,
    TenantSuspendedError,
    ValidationError,
)
from dotmac.database.tenancy import DirectoryOptions, IsolationMode, Quotas, Tenant, TenantDirectory
from dotmac.database.tenancy._directory_cache import DirectoryCache

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


Models = registry(metadata=METADATA)


@Models.mapped
class Customer:
    __table__ = CUSTOMERS


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


async def _scalar(engine, expression):
    async with engine.connect() as connection:
        return (await connection.execute(text(f"SELECT {expression}"))).scalar()


async def test_a_suspended_tenant_is_not_served_until_it_is_resumed(engine, directory):
    elsewhere = TenantDirectory(engine, DirectoryOptions(stale_for=timedelta(0)))
    acme = await directory.create("acme")
    await directory.placement_of(acme.id)
    assert (await directory.suspend(acme.id)).status == "suspended"
    for process in (directory, elsewhere):
        with pytest.raises(TenantSuspendedError, match="resume"):
            await process.placement_of(acme.id)
        with pytest.raises(TenantSuspendedError):
            await process.resolve("acme")
    await directory.resume(acme.id)
    assert await directory.placement_of(acme.id) == await elsewhere.placement_of(acme.id)


async def test_a_renamed_tenant_keeps_its_id_and_schema(engine, directory):
    acme = await directory.create("acme", mode="schema")
    renamed = await directory.rename(acme.id, "apex")
    assert (renamed.id, renamed.slug, renamed.schema) == (acme.id, "apex", "tenant_acme")
    with pytest.raises(TenantNotFoundError):
        await directory.resolve("acme")
    with pytest.raises(TenantExistsError, match="schema="):
        await directory.create("acme", mode="schema")
    assert (await directory.create("acme", mode="schema", schema="tenant_acme_2")).schema == "tenant_acme_2"
    with pytest.raises(TenantExistsError):
        await directory.rename(renamed.id, "acme")


async def test_dropping_wants_the_slug_again(engine, directory):
    acme = await directory.create("acme", mode="schema")
    with pytest.raises(ValidationError, match="another"):
        await directory.drop(acme.id, confirm="apex")
    await directory.drop(acme.id, confirm="acme")
    assert await _scalar(engine, "to_regnamespace('tenant_acme')") is None
    with pytest.raises(TenantNotFoundError):
        await directory.placement_of(acme.id)


async def test_a_schema_that_was_replaced_by_hand_is_not_dropped(engine, directory):
    acme = await directory.create("acme", mode="schema")
    await _run(engine, "DROP SCHEMA tenant_acme CASCADE")
    await _run(engine, "CREATE SCHEMA tenant_acme")
    with pytest.raises(SchemaError, match="mark"):
        await directory.drop(acme.id, confirm="acme")
    await directory.drop(acme.id, confirm="acme", keep_data=True)
    assert await _scalar(engine, "to_regnamespace('tenant_acme')") is not None


@pytest.mark.parametrize(
    "dependent",
    [
        "CREATE VIEW shared.all_notes AS SELECT * FROM tenant_acme.directory_notes",
        "CREATE TABLE shared.tied (id int REFERENCES tenant_acme.directory_notes)",
    ],
)
async def test_a_schema_that_others_depend_on_is_not_dropped(engine, directory, dependent):
    acme = await directory.create("acme", mode="schema")
    await _run(engine, dependent)
    with pytest.raises(SchemaError, match="shared"):
        await directory.drop(acme.id, confirm="acme")
    assert await directory.get(acme.id) == acme


async def test_what_was_registered_is_left_alone(engine, directory):
    await _run(engine, "CREATE SCHEMA legacy")
    old = await directory.register("old", mode="schema", schema="legacy")
    assert (await directory.placement_of(old.id)).schema == "legacy"
    await directory.drop(old.id, confirm="old")
    assert await _scalar(engine, "to_regnamespace('legacy')") is not None


async def test_dropping_a_tenant_of_shared_tables_deletes_its_rows_only(engine, directory):
    directory = TenantDirectory(engine, DirectoryOptions(metadata=METADATA, shared_schema=None))
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    acme, apex = await directory.create("acme"), await directory.create("apex")
    await _run(engine, "INSERT INTO directory_countries VALUES (1)")
    await _run(engine, f"INSERT INTO directory_customers VALUES (1, '{acme.id}', 1), (2, '{apex.id}', 1)")
    await _run(engine, "INSERT INTO directory_notes VALUES (1, 1), (2, 2)")
    await directory.drop(acme.id, confirm="acme")
    assert await _scalar(engine, "array_agg(id) FROM directory_customers") == [2]
    assert await _scalar(engine, "array_agg(id) FROM directory_notes") == [2]


def test_a_change_made_elsewhere_is_seen_when_the_memory_is_too_old():
    acme = Tenant(id="t1", slug="acme")
    cache = DirectoryCache(10, timedelta(seconds=5), clock=lambda: now)
    now = 100.0
    cache.remember(acme, acme.placement(), cache.ticket())
    now = 104.9
    assert cache.fresh("t1") is not None
    now = 105.0
    assert cache.fresh("t1") is None
    assert cache.fresh_slug("acme") is None


def test_what_was_read_before_a_change_is_not_remembered():
    cache = DirectoryCache(10, timedelta(seconds=5))
    old = Tenant(id="t1", slug="acme")
    ticket = cache.ticket()
    cache.forget("t1")
    cache.remember(old, old.placement(), ticket)
    assert cache.fresh("t1") is None


def test_a_process_remembers_no_more_tenants_than_it_is_told():
    cache = DirectoryCache(2, timedelta(seconds=5))
    for number in range(4):
        tenant = Tenant(id=f"t{number}", slug=f"s{number}")
        cache.remember(tenant, tenant.placement(), cache.ticket())
    assert [cache.fresh_slug(f"s{number}") is not None for number in range(4)] == [False, False, True, True]


async def test_a_tenants_own_statement_timeout_goes_with_its_placement(directory):
    acme = await directory.create("acme", quotas=Quotas(statement_timeout=timedelta(seconds=2)))
    assert (await directory.placement_of(acme.id)).statement_timeout == timedelta(seconds=2)
    await directory.set_quotas(acme.id, Quotas())
    assert (await directory.placement_of(acme.id)).statement_timeout is None


async def test_sessions_beyond_the_quota_wait_and_are_refused_in_time(engine):
    directory = TenantDirectory(engine, DirectoryOptions(admission_timeout=timedelta(milliseconds=50)))
    await directory.install()
    acme = await directory.create("acme", quotas=Quotas(connections=1))
    placement = await directory.placement_of(acme.id)
    async with directory.admit(placement):
        with pytest.raises(QuotaExceededError) as refused:
            async with directory.admit(placement):
                pass
        assert (refused.value.quota, refused.value.limit, refused.value.tenant) == ("connections", 1, acme.id)
    async with directory.admit(placement):
        pass


@pytest.mark.parametrize("mode", ["shared", "schema"])
async def test_rows_beyond_the_quota_are_refused_however_they_come(engine, directory, mode):
    schema = "public"
    if mode == "shared":
        async with engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
    acme = await directory.create("acme", mode=mode)
    schema = acme.schema or schema
    table = f"{schema}.directory_customers"
    await _run(engine, f"INSERT INTO {table} VALUES (1, '{acme.id}')")
    acme = await directory.set_quotas(acme.id, Quotas(rows={"directory_customers": 3}))
    assert await directory.rows_quota_of(acme.id) == {"directory_customers": 3}
    await _run(engine, f"INSERT INTO {table} VALUES (2, '{acme.id}'), (3, '{acme.id}')")
    with pytest.raises(QuotaExceededError) as refused:
        await _run(engine, f"INSERT INTO {table} VALUES (4, '{acme.id}')")
    assert (refused.value.table, refused.value.limit, refused.value.tenant) == (
        "directory_customers",
        3,
        acme.id,
    )
    await _run(engine, f"DELETE FROM {table} WHERE id = 1")
    await _run(engine, f"INSERT INTO {table} VALUES (4, '{acme.id}')")
    if mode == "shared":
        await _run(engine, f"INSERT INTO {table} SELECT n, 'other' FROM generate_series(10, 20) n")
    await directory.set_quotas(acme.id, Quotas())
    await _run(engine, f"INSERT INTO {table} VALUES (5, '{acme.id}')")


async def test_two_transactions_cannot_both_take_the_last_row(engine, directory):
    acme = await directory.create("acme", mode="schema", quotas=Quotas(rows={"directory_customers": 1}))
    insert = "INSERT INTO tenant_acme.directory_customers VALUES ({}, 'x')"
    outcomes = await asyncio.gather(
        *(_run(engine, insert.format(number)) for number in range(5)), return_exceptions=True
    )
    assert sum(isinstance(outcome, QuotaExceededError) for outcome in outcomes) == 4
    assert await _scalar(engine, "count(*) FROM tenant_acme.directory_customers") == 1
    assert acme.quotas.rows == {"directory_customers": 1}


async def test_a_quota_of_rows_wants_a_tenant_column(engine, directory):
    with pytest.raises(ValidationError, match="no tenant column"):
        await directory.create("acme", quotas=Quotas(rows={"directory_notes": 1}))
    assert await directory.list() == []


@pytest.fixture
async def administrator(engine, dotmac_postgres):
    url = make_url(dotmac_postgres.url(engine.url.database, driver="asyncpg", role="admin"))
    administrator = create_async_engine(url, poolclass=pool.NullPool)
    yield administrator
    await administrator.dispose()


async def test_a_database_of_its_own_is_made_and_dropped(engine, administrator, dotmac_postgres):
    name = f"tenant_{uuid.uuid4().hex[:12]}"
    directory = TenantDirectory(engine, DirectoryOptions(metadata=METADATA), administrator=administrator)
    await TenantDirectory(engine).install()
    acme = await directory.create("acme", mode="database", connection=name)
    try:
        placement = await directory.placement_of(acme.id)
        assert (placement.mode, placement.connection, placement.schema) == ("database", name, None)
        inside = create_async_engine(administrator.url.set(database=name), poolclass=pool.NullPool)
        assert await _tables(inside, "public") >= {
            "directory_customers",
            "directory_notes",
            "directory_countries",
        }
        with pytest.raises(SchemaError, match="exists already"):
            await directory.create("apex", mode="database", connection=name)
        assert [tenant.slug for tenant in await directory.list()] == ["acme"]
        await directory.drop(acme.id, confirm="acme")
        assert await directory.list() == []
        assert await _scalar(engine, f"count(*) FROM pg_database WHERE datname = '{name}'") == 0
    finally:
        dotmac_postgres.drop_database(name)


async def test_a_database_whose_tables_cannot_be_made_is_gone(engine, administrator):
    metadata = MetaData()
    Table(
        "directory_broken",
        metadata,
        Column("id", Integer, primary_key=True, server_default=text("nothing()")),
    )
    name = f"tenant_{uuid.uuid4().hex[:12]}"
    directory = TenantDirectory(engine, DirectoryOptions(metadata=metadata), administrator=administrator)
    await TenantDirectory(engine).install()
    with pytest.raises(SchemaError, match="42883"):
        await directory.create("acme", mode="database", connection=name)
    assert await directory.list() == []
    assert await _scalar(engine, f"count(*) FROM pg_database WHERE datname = '{name}'") == 0


async def test_creation_that_was_cut_short_is_known_and_cleared_away(engine, directory):
    await directory.create("acme", tenant_id="t1")
    await _run(
        engine,
        "UPDATE admin.tenants SET is_complete = false, mode = 'database', connection = 'tenant_nowhere', is_owned = true",
    )
    elsewhere = TenantDirectory(engine)
    with pytest.raises(TenantSuspendedError, match="incomplete"):
        await elsewhere.placement_of("t1")
    await elsewhere.drop("t1", confirm="acme")
    assert await elsewhere.list() == []


async def test_a_role_of_its_own_alone_may_use_the_schema(administrator):
    role = f"tenant_{uuid.uuid4().hex[:12]}"
    await _run(administrator, f"CREATE ROLE {role}_app NOLOGIN NOINHERIT")
    metadata = MetaData()
    Table("directory_plain", metadata, Column("tenant_id", String(63), primary_key=True))
    directory = TenantDirectory(
        administrator, DirectoryOptions(metadata=metadata, application_role=f"{role}_app", shared_schema=None)
    )
    await directory.install()
    try:
        acme = await directory.create("acme", mode="schema", role=role)
        assert (await directory.placement_of(acme.id)).role == role
        table = "tenant_acme.directory_plain"
        async with administrator.connect() as connection:
            await connection.execute(text(f"SET ROLE {role}_app"))
            with pytest.raises(DBAPIError, match="permission denied"):
                await connection.execute(text(f"SELECT * FROM {table}"))
            await connection.rollback()
            await connection.execute(text(f"SET ROLE {role}_app"))
            await connection.execute(text(f"SET LOCAL ROLE {role}"))
            await connection.execute(text(f"INSERT INTO {table} VALUES ('t1')"))
            with pytest.raises(DBAPIError, match="permission denied"):
                await connection.execute(text("CREATE TABLE tenant_acme.mine (id int)"))
        await directory.drop(acme.id, confirm="acme")
        assert await _scalar(administrator, f"count(*) FROM pg_roles WHERE rolname = '{role}'") == 0
    finally:
        await _run(administrator, f"DROP OWNED BY {role}_app")
        await _run(administrator, f"DROP ROLE {role}_app")


async def test_a_schema_on_another_database_is_registered_not_made(directory):
    with pytest.raises(ValidationError, match="register"):
        await directory.create("acme", mode="schema", connection="eu-1")
    assert (await directory.register("acme", mode="schema", connection="eu-1")).connection == "eu-1"


async def test_policies_in_a_tenants_own_schema_where_wanted(engine, directory):
    directory = TenantDirectory(engine, DirectoryOptions(metadata=METADATA, row_level_security=True))
    acme = await directory.create("acme", mode="schema")
    forced = await _scalar(
        engine,
        "count(*) FROM pg_class WHERE relnamespace = 'tenant_acme'::regnamespace AND relrowsecurity AND relforcerowsecurity",
    )
    assert forced == 2
    await directory.drop(acme.id, confirm="acme")


async def test_a_new_schema_is_marked_to_be_at_the_head_of_its_migrations(engine, directory, tmp_path):
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions" / "1_first.py").write_text("revision = 'first'\ndown_revision = None\n")
    directory = TenantDirectory(engine, DirectoryOptions(metadata=METADATA, migrations=tmp_path))
    await directory.create("acme", mode="schema")
    assert await _scalar(engine, "version_num FROM tenant_acme.alembic_version") == "first"


async def test_indexes_are_plain_and_the_percent_sign_arrives(engine):
    metadata = MetaData()
    table = Table(
        "directory_odd",
        metadata,
        Column("tenant_id", String(63), primary_key=True),
        Column("share", String(9), server_default="5%", comment="in %"),
    )
    Index("ix_directory_odd", table.c.share, postgresql_concurrently=True)
    directory = TenantDirectory(engine, DirectoryOptions(metadata=metadata))
    await directory.install()
    await directory.create("acme", mode="schema")
    await _run(engine, "INSERT INTO tenant_acme.directory_odd (tenant_id) VALUES ('a')")
    assert await _scalar(engine, "share FROM tenant_acme.directory_odd") == "5%"


async def _waits_for_a_lock(engine):
    """The backend that waits, as soon as there is one."""
    async with asyncio.timeout(60):
        while True:
            pid = await _scalar(
                engine,
                "min(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
            )
            if pid is not None:
                return pid


@pytest.mark.parametrize("end", ["cancelled", "killed"])
async def test_creation_that_is_ended_in_the_middle_leaves_nothing(engine, directory, end):
    async with engine.connect() as other:
        # The script runs into this lock when it refers to the shared table.
        await other.execute(text("LOCK TABLE shared.directory_countries"))
        creation = asyncio.ensure_future(directory.create("acme", mode="schema"))
        pid = await _waits_for_a_lock(engine)
        if end == "cancelled":
            creation.cancel()
        else:
            await _scalar(engine, f"pg_terminate_backend({pid})")
        outcome = (await asyncio.gather(creation, return_exceptions=True))[0]
        assert isinstance(outcome, asyncio.CancelledError if end == "cancelled" else Exception)
    assert await directory.list() == []
    assert (await directory.create("acme", mode="schema")).schema == "tenant_acme"


async def test_a_caller_that_gives_up_takes_the_answer_from_nobody(engine, directory):
    acme = await directory.create("acme")
    async with engine.begin() as other:
        await other.execute(text("LOCK TABLE admin.tenants"))
        first, second = (asyncio.ensure_future(directory.placement_of(acme.id)) for _ in range(2))
        await _waits_for_a_lock(engine)
        first.cancel()
    assert (await second).tenant_id == acme.id
    assert first.cancelled()


@pytest.mark.parametrize("end", ["cancelled", "killed"])
async def test_a_database_whose_creation_is_ended_in_the_middle_is_gone(engine, administrator, end):
    metadata = MetaData()
    Table("directory_slow", metadata, Column("id", Integer, primary_key=True))
    event.listen(metadata, "after_create", DDL("SELECT pg_sleep(600)"))
    name = f"tenant_{uuid.uuid4().hex[:12]}"
    directory = TenantDirectory(engine, DirectoryOptions(metadata=metadata), administrator=administrator)
    await TenantDirectory(engine).install()
    creation = asyncio.ensure_future(directory.create("acme", mode="database", connection=name))
    sleeping = f"min(pid) FROM pg_stat_activity WHERE datname = '{name}' AND wait_event = 'PgSleep'"
    async with asyncio.timeout(60):
        while (pid := await _scalar(administrator, sleeping)) is None:
            assert not creation.done(), creation.exception()
    with pytest.raises(TenantSuspendedError, match="incomplete"):
        await directory.resolve("acme")
    if end == "cancelled":
        creation.cancel()
    else:
        await _scalar(administrator, f"pg_terminate_backend({pid})")
    outcome = (await asyncio.gather(creation, return_exceptions=True))[0]
    assert isinstance(outcome, asyncio.CancelledError if end == "cancelled" else Exception)
    assert await directory.list() == []
    assert await _scalar(engine, f"count(*) FROM pg_database WHERE datname = '{name}'") == 0


async def test_the_application_may_use_rows_and_read_the_directory_and_no_more(administrator):
    app = f"directory_app_{uuid.uuid4().hex[:12]}"
    await _run(administrator, f"CREATE ROLE {app} NOLOGIN")
    metadata = MetaData()
    Table(
        "directory_plain", metadata, Column("id", Integer, primary_key=True), Column("tenant_id", String(63))
    )
    directory = TenantDirectory(administrator, DirectoryOptions(metadata=metadata, application_role=app))
    try:
        await directory.install()
        await directory.create("acme", mode="schema", quotas=Quotas(rows={"directory_plain": 1}))
        async with administrator.connect() as connection:
            for allowed in (
                "SELECT slug FROM admin.tenants",
                "INSERT INTO tenant_acme.directory_plain (tenant_id) VALUES ('x')",
                "UPDATE tenant_acme.directory_plain SET tenant_id = 'y'",
                "DELETE FROM tenant_acme.directory_plain",
            ):
                await connection.execute(text(f"SET LOCAL ROLE {app}"))
                await connection.execute(text(allowed))
            await connection.rollback()
            for refused in (
                "UPDATE admin.tenants SET is_active = false",
                "UPDATE admin.tenant_rows SET row_limit = 9",
                "TRUNCATE tenant_acme.directory_plain",
                "ALTER TABLE tenant_acme.directory_plain DISABLE TRIGGER ALL",
                "CREATE TABLE tenant_acme.mine (id int)",
                "CREATE TABLE shared.mine (id int)",
                "DROP SCHEMA tenant_acme",
            ):
                await connection.execute(text(f"SET LOCAL ROLE {app}"))
                with pytest.raises(DBAPIError, match=r"permission denied|must be owner"):
                    await connection.execute(text(refused))
                await connection.rollback()
        may_count = f"has_function_privilege('{app}', 'admin.count_tenant_rows()', 'EXECUTE')"
        assert not await _scalar(administrator, may_count)
        # What a later migration adds is the application's too.
        await _run(administrator, "CREATE TABLE tenant_acme.later (id int)")
        assert await _scalar(administrator, f"has_table_privilege('{app}', 'tenant_acme.later', 'INSERT')")
    finally:
        await _run(administrator, f"DROP OWNED BY {app}")
        await _run(administrator, f"DROP ROLE {app}")


async def test_rows_beyond_the_quota_that_come_by_copy_are_refused_alike(engine, directory):
    acme = await directory.create("acme", mode="schema", quotas=Quotas(rows={"directory_customers": 100}))
    async with create_session_factory(engine)() as session:
        await session.execute(text("SET LOCAL search_path = tenant_acme, shared"))
        customers = create_async_repository(session, Customer, tenant_id=acme.id)
        with pytest.raises(QuotaExceededError, match="100 rows of directory_customers"):
            await customers.bulk_create([{"id": number} for number in range(600)], returning=False)


async def test_who_asks_after_a_change_is_not_given_an_answer_from_before(engine, directory):
    acme = await directory.create("acme")
    async with engine.begin() as other:
        await other.execute(text("LOCK TABLE admin.tenants"))
        before = asyncio.ensure_future(directory.placement_of(acme.id))
        await _waits_for_a_lock(engine)
        change = asyncio.ensure_future(directory.suspend(acme.id))
        async with asyncio.timeout(60):
            waiting = "count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            while await _scalar(engine, waiting) < 2:
                pass
    await asyncio.gather(before, change, return_exceptions=True)
    with pytest.raises(TenantSuspendedError):
        await directory.placement_of(acme.id)


async def test_a_role_without_rights_on_the_directory_is_told_so(engine, administrator):
    await TenantDirectory(administrator).install()
    with pytest.raises(ConfigurationError, match="application-role"):
        await TenantDirectory(engine).list()


async def test_nobody_else_may_connect_to_a_database_of_its_own(engine, administrator, dotmac_postgres):
    name = f"tenant_{uuid.uuid4().hex[:12]}"
    app = engine.url.username
    directory = TenantDirectory(engine, DirectoryOptions(application_role=app), administrator=administrator)
    await directory.install()
    try:
        await directory.create("acme", mode="database", connection=name)
        assert await _scalar(administrator, f"has_database_privilege('{app}', '{name}', 'CONNECT')")
        assert not await _scalar(administrator, f"has_database_privilege('public', '{name}', 'CONNECT')")
    finally:
        dotmac_postgres.drop_database(name)
