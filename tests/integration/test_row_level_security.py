"""Policies on a real server: what they let through, and whether it is noticed when they are not there or not ours."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import CITEXT
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.pool import NullPool

from dotmac.database.errors import ConfigurationError
from dotmac.database.tenancy import (
    RESTRICTIVE_POLICY,
    bound_by_the_server,
    disable_row_level_security,
    drop_row_level_security_sql,
    enable_row_level_security,
    row_level_security_sql,
    rule_of,
)

TENANT = "app.tenant_id"
ACME, OTHER = "acme", "other"
UUIDS = (str(uuid.UUID(int=1)), str(uuid.UUID(int=2)))

metadata = sa.MetaData()
accounts = sa.Table(
    "rls_accounts",
    metadata,
    sa.Column("tenant_id", sa.String(255), primary_key=True),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("body", sa.Text),
)
lines = sa.Table(
    "rls Lines:%s",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("owner", sa.String(255), nullable=False),
    sa.Column("Account Id", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(["owner", "Account Id"], ["rls_accounts.tenant_id", "rls_accounts.id"]),
)
details = sa.Table(
    "rls_details",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("line_id", sa.ForeignKey(lines.c.id), nullable=False),
)
events = sa.Table(
    "rls_events",
    metadata,
    sa.Column("tenant_id", sa.Text),
    sa.Column("day", sa.Integer),
    sa.Column("account_id", sa.Integer),
    postgresql_partition_by="RANGE (day)",
)
places = sa.Table("rls_places", metadata, sa.Column("id", sa.Integer, primary_key=True))
divided = [accounts, lines, details, events]


@pytest.fixture(scope="module")
def engine(dotmac_database):
    engine = sa.create_engine(dotmac_database.url("psycopg"), poolclass=NullPool)
    with engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(
            sa.text("CREATE TABLE rls_events_1 PARTITION OF rls_events FOR VALUES FROM (0) TO (10)")
        )
        connection.execute(
            sa.text(
                "CREATE TABLE rls_events_2 PARTITION OF rls_events FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (day)"
            )
        )
        connection.execute(
            sa.text("CREATE TABLE rls_events_2a PARTITION OF rls_events_2 FOR VALUES FROM (10) TO (15)")
        )
    yield engine
    with engine.begin() as connection:
        metadata.drop_all(connection)


@pytest.fixture
def connection(engine):
    """A connection of the tables' owner, in a transaction that is rolled back."""
    with engine.connect() as connection, connection.begin() as transaction:
        yield connection
        transaction.rollback()


def bind(connection, tenant):
    connection.execute(sa.text("SELECT set_config('app.tenant_id', :tenant, true)"), {"tenant": tenant})


def fill(connection):
    """One row of each of two tenants in each table, written before there is row-level security."""
    for number, tenant in enumerate((ACME, OTHER), 1):
        connection.execute(accounts.insert(), {"tenant_id": tenant, "id": number, "body": "secret"})
        connection.execute(lines.insert(), {"id": number, "owner": tenant, "Account Id": number})
        connection.execute(details.insert(), {"id": number, "line_id": number})
        connection.execute(events.insert(), {"tenant_id": tenant, "day": 11, "account_id": number})


def identifiers(connection, table):
    column = table.c.account_id if table is events else table.c.id
    return sorted(connection.scalars(sa.select(column)))


@pytest.mark.parametrize("table", divided, ids=lambda table: table.name)
@pytest.mark.parametrize(
    ("tenant", "seen"), [(ACME, [1]), (OTHER, [2]), ("nobody", []), ("", []), (None, [])]
)
def test_a_tenant_reads_its_own_rows(connection, table, tenant, seen):
    fill(connection)
    enable_row_level_security(connection, metadata)
    if tenant is not None:
        bind(connection, tenant)
    assert identifiers(connection, table) == seen


@pytest.mark.parametrize("partition", ["rls_events_2", "rls_events_2a"])
def test_a_partition_read_by_its_own_name_is_no_way_round(connection, partition):
    fill(connection)
    enable_row_level_security(connection, metadata)
    bind(connection, ACME)
    found = connection.scalars(sa.select(sa.column("account_id")).select_from(sa.table(partition)))
    assert list(found) == [1]


@pytest.mark.parametrize(
    "statement",
    [
        accounts.insert().values(tenant_id=OTHER, id=9),
        accounts.update().values(tenant_id=OTHER),
        lines.insert().values({"id": 9, "owner": OTHER, "Account Id": 2}),
        lines.update().values({"owner": OTHER, "Account Id": 2}),
        details.insert().values(id=9, line_id=2),
        events.insert().values(tenant_id=OTHER, day=1),
        sa.text("INSERT INTO rls_events_1 VALUES ('other', 1, 1)"),
    ],
    ids=str,
)
def test_a_row_of_another_tenant_is_refused(connection, statement):
    fill(connection)
    enable_row_level_security(connection, metadata)
    bind(connection, ACME)
    with pytest.raises(ProgrammingError, match="row-level security"):
        connection.execute(statement)


@pytest.mark.parametrize("table", divided, ids=lambda table: table.name)
def test_rows_of_another_tenant_are_not_deleted(connection, table):
    fill(connection)
    enable_row_level_security(connection, metadata)
    bind(connection, ACME)
    for each in reversed(divided):
        connection.execute(each.delete())
    disable_row_level_security(connection, metadata)
    assert identifiers(connection, table) == [2]


@pytest.mark.parametrize(
    ("column_type", "tenants", "cast"),
    [
        (sa.Uuid(), UUIDS, "uuid"),
        (sa.UUID(as_uuid=False), UUIDS, "uuid"),
        (sa.Integer(), ("7", "8"), "integer"),
        (sa.BigInteger(), ("7", "8"), "bigint"),
        (sa.SmallInteger(), ("7", "8"), "smallint"),
        (sa.Numeric(10, 0), ("7", "8"), "numeric"),
        (sa.CHAR(3), ("a", "b"), "bpchar"),
        (sa.String(5, collation="C"), ("a", "b"), None),
        (sa.Enum("a", "b", name="rls_Kind"), ("a", "b"), '"rls_Kind"'),
    ],
    ids=repr,
)
def test_a_tenant_column_of_any_type_keeps_its_index(connection, column_type, tenants, cast):
    table = sa.Table(
        "rls_typed", sa.MetaData(), sa.Column("tenant_id", column_type), sa.Column("id", sa.Integer)
    )
    table.create(connection)
    assert rule_of(table).cast == cast
    for number, tenant in enumerate(tenants):
        value = sa.cast(sa.literal(tenant, sa.Text()), column_type)
        connection.execute(table.insert().values(tenant_id=value, id=number))
    enable_row_level_security(connection, table)
    assert bound_by_the_server(connection, [table]) == {table}
    bind(connection, tenants[1])
    assert identifiers(connection, table) == [1]
    connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
    plan = "\n".join(connection.scalars(sa.text("EXPLAIN SELECT * FROM rls_typed")))
    assert "Index Cond: " in plan
    assert enable_row_level_security(connection, table) == []


def test_an_id_longer_than_the_column_is_nobody(connection):
    table = sa.Table(
        "rls_short", sa.MetaData(), sa.Column("tenant_id", sa.CHAR(3)), sa.Column("id", sa.Integer)
    )
    table.create(connection)
    connection.execute(table.insert(), {"tenant_id": "acm", "id": 1})
    enable_row_level_security(connection, table)
    bind(connection, "acme")
    assert identifiers(connection, table) == []


def test_an_id_of_another_type_is_an_error(connection):
    table = sa.Table(
        "rls_uuid", sa.MetaData(), sa.Column("tenant_id", sa.Uuid()), sa.Column("id", sa.Integer)
    )
    table.create(connection)
    connection.execute(table.insert(), {"tenant_id": uuid.UUID(int=1), "id": 1})
    enable_row_level_security(connection, table)
    bind(connection, "acme")
    with pytest.raises(DBAPIError, match="uuid"):
        identifiers(connection, table)


def test_a_second_run_does_nothing_and_disabling_undoes_everything(connection):
    assert enable_row_level_security(connection, metadata)
    assert enable_row_level_security(connection, metadata) == []
    disable_row_level_security(connection, metadata)
    left = "SELECT count(*) FROM pg_policy WHERE polname LIKE 'dotmac%'"
    assert connection.scalar(sa.text(left)) == 0
    assert bound_by_the_server(connection, divided) == set()
    fill(connection)
    assert identifiers(connection, accounts) == [1, 2]


def test_the_statements_alone_do_the_same_and_can_be_repeated(connection):
    for statement in row_level_security_sql(metadata) * 2:
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    assert bound_by_the_server(connection, divided) == set(divided)
    assert enable_row_level_security(connection, metadata) == []
    for statement in drop_row_level_security_sql(metadata) * 2:
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    assert bound_by_the_server(connection, divided) == set()


async def test_it_runs_on_an_async_connection(engine, dotmac_engine):
    async with dotmac_engine.connect() as connection:
        await connection.run_sync(enable_row_level_security, metadata)
        assert await connection.run_sync(bound_by_the_server, divided) == set(divided)
        await connection.rollback()


def test_a_schema_of_its_own_is_found_by_search_path(connection):
    connection.execute(sa.text("CREATE SCHEMA rls_tenant"))
    connection.execute(sa.text("SET LOCAL search_path = rls_tenant"))
    owner = sa.Table(
        "rls_accounts",
        sa.MetaData(),
        sa.Column("tenant_id", sa.Text),
        sa.Column("id", sa.Integer, primary_key=True),
    )
    owned = sa.Table(
        "rls_owned", owner.metadata, sa.Column("account_id", sa.ForeignKey(owner.c.id), nullable=False)
    )
    owner.metadata.create_all(connection)
    enable_row_level_security(connection, owner.metadata)
    assert bound_by_the_server(connection, [owner, owned]) == {owner, owned}
    connection.execute(sa.text("SET LOCAL search_path = public"))
    assert bound_by_the_server(connection, [owner, owned]) == set()
    elsewhere = sa.MetaData()
    named = [table.to_metadata(elsewhere, schema="rls_tenant") for table in (owner, owned)]
    assert bound_by_the_server(connection, named) == set(named)


BOUNDARY = f"{RESTRICTIVE_POLICY} ON rls_accounts"
IS_TENANT = f"tenant_id = nullif(current_setting('{TENANT}', true), '')"


@pytest.mark.parametrize(
    "damage",
    [
        "ALTER TABLE rls_accounts DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE rls_accounts NO FORCE ROW LEVEL SECURITY",
        f"DROP POLICY {BOUNDARY}",
        f"ALTER POLICY {BOUNDARY} USING (true)",
        f"ALTER POLICY {BOUNDARY} WITH CHECK (true)",
        f"ALTER POLICY {BOUNDARY} USING ({IS_TENANT} OR body = 'x')",
        f"ALTER POLICY {BOUNDARY} USING (tenant_id = coalesce(current_setting('{TENANT}', true), tenant_id))",
        f"ALTER POLICY {BOUNDARY} USING (tenant_id = nullif(current_setting('app.other', true), ''))",
        f"ALTER POLICY {BOUNDARY} USING (body = nullif(current_setting('{TENANT}', true), ''))",
        f"ALTER POLICY {BOUNDARY} TO pg_monitor",
        f"DROP POLICY {BOUNDARY}; CREATE POLICY {BOUNDARY} AS PERMISSIVE USING ({IS_TENANT})",
        f"DROP POLICY {BOUNDARY}; CREATE POLICY {BOUNDARY} AS RESTRICTIVE FOR SELECT USING ({IS_TENANT})",
        "CREATE TEMP TABLE rls_accounts (tenant_id text, id integer)",
        "ALTER TABLE rls_accounts RENAME TO rls_renamed",
    ],
)
def test_the_server_binds_nobody_where_something_is_amiss(connection, damage):
    enable_row_level_security(connection, metadata)
    assert accounts in bound_by_the_server(connection, divided)
    for statement in damage.split(";"):
        connection.execute(sa.text(statement))
    assert accounts not in bound_by_the_server(connection, divided)
    assert events in bound_by_the_server(connection, divided)


@pytest.mark.parametrize(
    "damage",
    [
        f"DROP POLICY {RESTRICTIVE_POLICY} ON rls_events_2a",
        "ALTER TABLE rls_events_1 DISABLE ROW LEVEL SECURITY",
        "CREATE TABLE rls_events_3 PARTITION OF rls_events FOR VALUES FROM (20) TO (30)",
    ],
)
def test_one_open_partition_is_enough_for_doubt(connection, damage):
    enable_row_level_security(connection, metadata)
    connection.execute(sa.text(damage))
    assert bound_by_the_server(connection, [events]) == set()
    assert enable_row_level_security(connection, metadata)
    assert bound_by_the_server(connection, [events]) == {events}


def test_an_administrator_is_bound_by_nothing(engine, dotmac_database):
    admin = sa.create_engine(dotmac_database.url("psycopg", "admin"), poolclass=NullPool)
    with admin.connect() as connection:
        enable_row_level_security(connection, metadata)
        assert bound_by_the_server(connection, divided) == set()


def test_tables_of_nobody_are_left_alone(connection):
    enable_row_level_security(connection, [places])
    assert bound_by_the_server(connection, [places]) == set()
    assert rule_of(places) is None
    connection.execute(places.insert(), {"id": 1})


def test_another_permissive_policy_opens_nothing(connection):
    fill(connection)
    enable_row_level_security(connection, metadata)
    connection.execute(sa.text("CREATE POLICY everything ON rls_accounts USING (true)"))
    bind(connection, ACME)
    assert identifiers(connection, accounts) == [1]


def test_a_database_without_row_level_security_says_so():
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        with pytest.raises(ConfigurationError, match="PostgreSQL only, and this is sqlite"):
            enable_row_level_security(connection, metadata)
        with pytest.raises(ConfigurationError, match="guard"):
            disable_row_level_security(connection, metadata)
        assert bound_by_the_server(connection, divided) == set()
    engine.dispose()


@pytest.mark.parametrize(
    "column_type", [sa.JSON(), sa.LargeBinary(), sa.Uuid(native_uuid=False), sa.ARRAY(sa.Text())], ids=repr
)
def test_a_column_that_cannot_be_compared_is_refused(column_type):
    table = sa.Table("rls_odd", sa.MetaData(), sa.Column("tenant_id", column_type))
    with pytest.raises(ConfigurationError, match="text, an integer or a native UUID"):
        row_level_security_sql(table)


def test_citext_is_cast_to():
    table = sa.Table("rls_ci", sa.MetaData(), sa.Column("tenant_id", CITEXT()))
    assert rule_of(table).cast == "citext"
