"""What a server lets through although row-level security is on: each is shown, found by the doctor, mended, and gone."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from isolation_models import Attacked, Note, Notebook
from isolation_worlds import Kind, opened
from sqlalchemy import Column, Integer, MetaData, String, Table, column, event, false, select, table, text

from dotmac.database import (
    RequestContext,
    create_engine,
    create_repository,
    create_session_factory,
    use_context,
)
from dotmac.database.errors import (
    DatabaseError,
    SchemaError,
    UnprovableStatementError,
    ValidationError,
)
from dotmac.database.tenancy import enable_row_level_security
from dotmac.database.tenancy._names import check_schema_name, schema_name
from dotmac.database.tenancy.doctor import examine
from dotmac.database.testing.isolation import ATTACKER, OTHER

APPLICATION, OWNER = "isolation_application", "isolation_owner"


@pytest.fixture
def administrator(databases):
    """The administrator's connection, rolled back at the end, roles included."""
    trial, _ = databases.trial("secured")
    with trial.administrators[ATTACKER].connect() as connection, connection.begin() as transaction:
        run(
            connection,
            f"CREATE ROLE {OWNER}",
            f"CREATE ROLE {APPLICATION}",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {APPLICATION}",
            *(f"ALTER TABLE {table.name} OWNER TO {OWNER}" for table in Attacked.metadata.sorted_tables),
        )
        yield connection
        transaction.rollback()


def run(connection, *statements):
    for statement in statements:
        connection.execute(text(statement.replace(":", r"\:")))


def stolen(connection, statement):
    """True if ``statement``, run as the application for the attacker, shows or changes another tenant's rows."""
    savepoint = connection.begin_nested()
    try:
        run(connection, f"SET LOCAL ROLE {APPLICATION}", f"SET LOCAL app.tenant_id = '{ATTACKER}'")
        result = connection.execute(text(statement))
        if result.returns_rows:
            return any(OTHER in map(str, row) for row in result)
        run(connection, "RESET ROLE")
        left = connection.scalar(sa.select(sa.func.count()).where(Note.tenant_id == OTHER))
    except sa.exc.DBAPIError:
        return False
    else:
        return left == 0
    finally:
        savepoint.rollback()


NOTES = "SELECT tenant_id FROM attacked_notes"

WAYS = {
    "40-owner-without-force": (
        [
            f"ALTER TABLE attacked_notes OWNER TO {APPLICATION}",
            "ALTER TABLE attacked_notes NO FORCE ROW LEVEL SECURITY",
        ],
        NOTES,
        "rls-not-forced",
    ),
    "40-function-of-a-superuser": (
        [
            (
                "CREATE FUNCTION isolation_f() RETURNS SETOF varchar LANGUAGE sql SECURITY DEFINER SET search_path = public "
                f"AS '{NOTES}'"
            )
        ],
        "SELECT isolation_f()",
        "function-of-owner",
    ),
    "41-materialized-view": (
        [
            f"CREATE MATERIALIZED VIEW isolation_m AS {NOTES}",
            f"GRANT SELECT ON isolation_m TO {APPLICATION}",
        ],
        "SELECT * FROM isolation_m",
        "materialized-view",
    ),
    "42-view-of-a-superuser": (
        [f"CREATE VIEW isolation_v AS {NOTES}", f"GRANT SELECT ON isolation_v TO {APPLICATION}"],
        "SELECT * FROM isolation_v",
        "view-of-owner",
    ),
    "43-superuser": ([f"ALTER ROLE {APPLICATION} SUPERUSER"], NOTES, "role-superuser"),
    "43-bypass": ([f"ALTER ROLE {APPLICATION} BYPASSRLS"], NOTES, "role-bypassrls"),
    "45-another-permissive-policy": (
        [
            "CREATE POLICY isolation_p ON attacked_notes USING (true)",
            "DROP POLICY dotmac_tenant_boundary ON attacked_notes",
        ],
        NOTES,
        "policy-boundary",
    ),
    "46-partition-child": (
        [
            "CREATE TABLE isolation_events (tenant_id text NOT NULL, day integer) PARTITION BY RANGE (day)",
            "CREATE TABLE isolation_events_1 PARTITION OF isolation_events FOR VALUES FROM (0) TO (9)",
            f"INSERT INTO isolation_events VALUES ('{OTHER}', 1)",  # noqa: S608 - a constant
            "CREATE INDEX ON isolation_events (tenant_id)",
            f"GRANT SELECT ON isolation_events, isolation_events_1 TO {APPLICATION}",
            *(
                f"CREATE POLICY {name} ON isolation_events AS {kind} USING "
                "(tenant_id = nullif(current_setting('app.tenant_id', true), ''))"
                for name, kind in (
                    ("dotmac_tenant_rows", "PERMISSIVE"),
                    ("dotmac_tenant_boundary", "RESTRICTIVE"),
                )
            ),
            "ALTER TABLE isolation_events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        ],
        "SELECT tenant_id FROM isolation_events_1",
        "rls-off",
    ),
    "47-new-table": (
        [
            "CREATE TABLE isolation_new (tenant_id text NOT NULL, id uuid, PRIMARY KEY (tenant_id, id))",
            f"INSERT INTO isolation_new VALUES ('{OTHER}', gen_random_uuid())",  # noqa: S608 - a constant
            f"GRANT SELECT ON isolation_new TO {APPLICATION}",
        ],
        "SELECT tenant_id FROM isolation_new",
        "rls-off",
    ),
    "48-truncate": (
        [f"GRANT TRUNCATE ON attacked_notes TO {APPLICATION}"],
        "TRUNCATE attacked_notes",
        "truncate-granted",
    ),
}


@pytest.mark.parametrize(("disease", "attack", "code"), WAYS.values(), ids=WAYS)
def test_a_way_round_row_level_security_is_found_and_mended(administrator, disease, attack, code):
    assert not stolen(administrator, NOTES)
    run(administrator, *disease)
    assert stolen(administrator, attack)
    findings = examine(administrator, Attacked.metadata, roles=[APPLICATION])
    assert code in {finding.code for finding in findings}
    for finding in findings:
        if finding.code in {code, "policy-extra", "role-owner"}:
            run(administrator, *finding.sql)
    assert not stolen(administrator, attack)


def test_44_policies_of_a_role_it_belongs_to_open_nothing(administrator):
    run(
        administrator,
        "CREATE ROLE isolation_group",
        f"GRANT isolation_group TO {APPLICATION}",
        "CREATE POLICY isolation_p ON attacked_notes TO isolation_group USING (true)",
    )
    assert not stolen(administrator, NOTES)


def test_45_a_second_permissive_policy_opens_nothing(administrator):
    run(administrator, "CREATE POLICY isolation_p ON attacked_notes USING (true)")
    assert not stolen(administrator, NOTES)


@pytest.mark.parametrize("statement", ["TRUNCATE attacked_notes", "TRUNCATE attacked_notebooks CASCADE"])
def test_48_the_application_may_not_truncate(administrator, statement):
    assert not stolen(administrator, statement)


def test_51_the_application_cannot_read_or_set_a_sequence(administrator):
    run(
        administrator,
        "CREATE SEQUENCE isolation_sequence",
        f"GRANT USAGE ON SEQUENCE isolation_sequence TO {APPLICATION}",
        f"SET LOCAL ROLE {APPLICATION}",
    )
    administrator.execute(text("SELECT nextval('isolation_sequence')"))
    for statement in ("SELECT last_value FROM isolation_sequence", "SELECT setval('isolation_sequence', 1)"):
        with pytest.raises(sa.exc.ProgrammingError), administrator.begin_nested():
            administrator.execute(text(statement))


def test_52_statistics_show_no_values_of_a_secured_table(administrator):
    run(administrator, "ANALYZE attacked_notes")
    assert administrator.scalar(text("SELECT count(*) FROM pg_stats WHERE tablename = 'attacked_notes'"))
    assert not stolen(
        administrator,
        "SELECT CAST(most_common_vals AS text) FROM pg_stats WHERE tablename = 'attacked_notes'",
    )
    run(administrator, f"SET LOCAL ROLE {APPLICATION}")
    assert not administrator.scalar(text("SELECT count(*) FROM pg_stats WHERE tablename = 'attacked_notes'"))


@pytest.fixture
def one_connection(databases):
    """Our engine on the secured database, with a pool of one connection, as behind a pooler in transaction mode."""
    _, url_for = databases.trial("secured")
    engine = create_engine(url_for("psycopg"), pool_size=1, max_overflow=0)
    yield engine
    engine.dispose()


def bodies(engine, tenant):
    with use_context(RequestContext(tenant_id=tenant)), create_session_factory(engine)() as session:
        return {note.tenant_id for note in session.scalars(select(Note))}


def test_34_after_a_transaction_its_tenant_is_nobodys(one_connection):
    assert bodies(one_connection, ATTACKER) == {ATTACKER}
    with one_connection.connect() as connection:
        assert not connection.exec_driver_sql("SELECT current_setting('app.tenant_id', true)").scalar()
        assert connection.exec_driver_sql("SELECT count(*) FROM attacked_notes").scalar() == 0


def test_38_tenants_take_turns_on_one_connection(one_connection):
    server = set()

    @event.listens_for(one_connection, "checkout")
    def note(driver_connection, *_):
        server.add(id(driver_connection))

    for tenant in (ATTACKER, OTHER, ATTACKER, OTHER):
        assert bodies(one_connection, tenant) == {tenant}
    assert len(server) == 1


@pytest.fixture
def copied(databases):
    """Copies of tables, readable by all, in another schema, in whose name is that of one that is used."""
    trial, _ = databases.trial("secured")
    with trial.administrators[ATTACKER].begin() as connection:
        run(
            connection,
            "CREATE SCHEMA acme",
            "GRANT USAGE ON SCHEMA acme TO PUBLIC",
            "CREATE TABLE acme.attacked_notebooks AS SELECT * FROM attacked_notebooks",
            'CREATE TABLE acme."Attacked_Labels" AS SELECT * FROM attacked_labels',
            "GRANT ALL ON ALL TABLES IN SCHEMA acme TO PUBLIC",
        )
    yield
    with trial.administrators[ATTACKER].begin() as connection:
        run(connection, "DROP SCHEMA acme CASCADE")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT title FROM acme.attacked_notebooks",
        'SELECT title FROM "acme" . "attacked_notebooks"',
        "SELECT n.title FROM attacked_notebooks n, acme.attacked_notebooks m",
        "SELECT acme.title FROM attacked_notebooks AS acme, acme.attacked_notebooks AS m",
        "UPDATE acme.attacked_notebooks SET title = ''",
        'SELECT name FROM "acme"."Attacked_Labels"',
        "SELECT ARRAY[(SELECT max(title) FROM acme.attacked_notebooks)]",
    ],
)
@pytest.mark.usefixtures("copied")
def test_60_text_names_no_table_of_the_same_name_in_another_schema(one_connection, statement):
    """The server was asked about the model's own table, whatever the other schema is called."""
    with (
        use_context(RequestContext(tenant_id=ATTACKER)),
        create_session_factory(one_connection)() as session,
        pytest.raises(UnprovableStatementError, match="'acme'"),
    ):
        session.execute(text(statement))


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT n.tenant_id FROM attacked_notebooks AS n",
        "SELECT public.attacked_notebooks.tenant_id FROM public.attacked_notebooks",
        "WITH x AS (SELECT tenant_id, 1 AS attacked_labels FROM attacked_notebooks) SELECT max(tenant_id) FROM x GROUP BY x.attacked_labels",
        "SELECT n.tenant_id FROM attacked_notebooks n, (VALUES (1)) v (attacked_labels) WHERE v.attacked_labels = 1",
    ],
)
@pytest.mark.usefixtures("copied")
def test_60_text_may_name_the_table_where_it_is(one_connection, statement):
    with use_context(RequestContext(tenant_id=ATTACKER)), create_session_factory(one_connection)() as session:
        assert set(session.scalars(text(statement))) == {ATTACKER}


OTHER_NOTEBOOKS = table("attacked_notebooks", column("title"), schema="acme")
NOTEBOOKS = Notebook.__table__
PIECES = {
    "loose": select(text("title FROM ")).suffix_with("acme.attacked_notebooks"),
    "ends in a dot": select(text("title FROM acme.")).suffix_with("attacked_notebooks"),
    "begins with a dot": select(text("title FROM acme")).suffix_with(".attacked_notebooks"),
    "table of the same name": select(OTHER_NOTEBOOKS.c.title).select_from(
        OTHER_NOTEBOOKS.join(table("pg_class", schema="pg_catalog"), false(), full=True)
    ),
    "translated": select(NOTEBOOKS.c.title)
    .select_from(NOTEBOOKS.join(NOTEBOOKS.alias(), false(), full=True))
    .execution_options(schema_translate_map={None: "acme"}),
}


@pytest.mark.parametrize("statement", PIECES.values(), ids=PIECES)
@pytest.mark.usefixtures("copied")
def test_60_a_statement_with_doubts_names_no_table_in_another_schema(one_connection, statement):
    with (
        use_context(RequestContext(tenant_id=ATTACKER)),
        create_session_factory(one_connection)() as session,
        pytest.raises(UnprovableStatementError),
    ):
        session.execute(statement)


LONG = "l" * 63


@pytest.mark.parametrize(
    "statement",
    [
        "TABLE placed",
        f"TABLE acme.{LONG}",
        f"TABLE acme.{LONG}onger",
        f'TABLE acme."{LONG}onger"',
    ],
    ids=["without its schema", "long", "longer", "longer, quoted"],
)
def test_60_a_name_is_what_the_server_makes_of_it(databases, one_connection, statement):
    trial, _ = databases.trial("secured")
    metadata = MetaData()
    for name, schema in [("placed", "home"), (LONG, None)]:
        key, tenant = Column("id", Integer, primary_key=True), Column("tenant_id", String(20), nullable=False)
        Table(name, metadata, key, tenant, schema=schema)
    with trial.administrators[ATTACKER].begin() as connection:
        run(
            connection,
            "CREATE SCHEMA home",
            "CREATE SCHEMA acme",
            "GRANT USAGE ON SCHEMA home, acme TO PUBLIC",
        )
        metadata.create_all(connection)
        enable_row_level_security(connection, metadata)
        for name in ("public.placed", f"acme.{LONG}"):
            run(connection, f"CREATE TABLE {name} AS SELECT '{OTHER}' AS tenant_id")
        for name in ("public.placed", f"acme.{LONG}", "home.placed", f"public.{LONG}"):
            run(connection, f"GRANT SELECT ON {name} TO PUBLIC")
    try:
        with (
            use_context(RequestContext(tenant_id=ATTACKER)),
            create_session_factory(one_connection)() as session,
        ):
            assert session.execute(text("TABLE home.placed")).all() == []
            assert session.execute(text(f"TABLE {LONG}")).all() == []
            with pytest.raises(UnprovableStatementError):
                session.execute(text(statement))
    finally:
        with trial.administrators[ATTACKER].begin() as connection:
            run(
                connection, "DROP TABLE public.placed", "DROP SCHEMA home, acme CASCADE", f"DROP TABLE {LONG}"
            )


def test_39_statements_prepared_for_one_schema_are_not_run_in_anothers(databases):
    with opened(databases, Kind("schemas", "psycopg", is_async=False)) as world:
        subject = world.subjects[0]
        for _ in range(7):  # psycopg prepares a statement the fifth time
            for tenant in (ATTACKER, OTHER):
                with world.trial.open(tenant) as session:
                    rows = session.execute(select(subject.table)).all()
                    assert len(rows) == subject.own_total
                    assert all(tenant in row for row in rows)


def test_55_many_rows_are_written_under_row_level_security(one_connection, databases):
    with use_context(RequestContext(tenant_id=ATTACKER)), create_session_factory(one_connection)() as session:
        books = create_repository(session, Notebook, ATTACKER)
        assert len(books.bulk_create([{"title": f"book {number}"} for number in range(600)])) == 600
        with pytest.raises(DatabaseError):
            books.bulk_create([{"title": f"page {n}", "tenant_id": OTHER} for n in range(600)])
        session.rollback()


HOSTILE = [
    "",
    "public",
    "pg_catalog",
    "Acme",
    'a"; DROP SCHEMA public; --',
    "a\0b",
    "x" * 64,
    "\u0430cme",
    "*",
    "a b",
    "a,public",
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_56_a_hostile_schema_is_refused_before_any_sql(name):
    with pytest.raises((SchemaError, ValidationError)):
        check_schema_name(name)


@pytest.mark.parametrize("slug", HOSTILE, ids=ascii)
def test_57_a_reserved_long_or_look_alike_slug_is_refused(slug):
    with pytest.raises((SchemaError, ValidationError)):
        schema_name(slug)


def test_57_no_two_slugs_share_a_schema():
    slugs = ["acme-inc", "acme_inc", "acmeinc", "acme-in-c", "acme-in_c"]
    assert len({schema_name(slug) for slug in slugs}) == len(slugs)
