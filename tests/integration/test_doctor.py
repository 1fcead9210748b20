"""The doctor: every disease is built on a real server, found, mended by its own SQL, and gone."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from dotmac.database import create_async_engine
from dotmac.database.cli._main import run
from dotmac.database.errors import ConfigurationError
from dotmac.database.tenancy import enable_row_level_security
from dotmac.database.tenancy.doctor import Severity, examine, judge, read_facts

metadata = sa.MetaData()
accounts = sa.Table(
    "doc_accounts",
    metadata,
    sa.Column("tenant_id", sa.String(255), primary_key=True),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("code", sa.Text),
)
orders = sa.Table(
    "doc_orders",
    metadata,
    sa.Column("tenant_id", sa.String(255), primary_key=True),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("account_id", sa.Integer),
)
lines = sa.Table(
    "doc_lines",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("owner", sa.String(255), nullable=False),
    sa.Column("order_id", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(["owner", "order_id"], ["doc_orders.tenant_id", "doc_orders.id"]),
)
events = sa.Table(
    "doc_events",
    metadata,
    sa.Column("tenant_id", sa.Text, nullable=False, index=True),
    sa.Column("day", sa.Integer, nullable=False),
    postgresql_partition_by="RANGE (day)",
)
SETTING = "nullif(current_setting('app.tenant_id', true), '')"


@pytest.fixture(scope="module")
def engine(dotmac_postgres):
    name = f"doctor_{uuid.uuid4().hex[:8]}"
    dotmac_postgres.create_database(name)
    engine = sa.create_engine(dotmac_postgres.url(name, driver="psycopg", role="admin"), poolclass=NullPool)
    with engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(
            sa.text("CREATE TABLE doc_events_1 PARTITION OF doc_events FOR VALUES FROM (0) TO (9)")
        )
        enable_row_level_security(connection, metadata)
        for schema in ("tenant_a", "tenant_b", "tenant_c"):
            connection.execute(sa.text(f"CREATE SCHEMA {schema}"))
            connection.execute(sa.text(f"CREATE TABLE {schema}.things (id uuid PRIMARY KEY, body text)"))
            connection.execute(sa.text(f"SET LOCAL search_path = {schema}"))
            metadata.create_all(connection)
    yield engine
    engine.dispose()
    dotmac_postgres.drop_database(name)


@pytest.fixture
def connection(engine):
    """The administrator's, in a transaction that is rolled back; with an owner and an application role."""
    with engine.connect() as connection, connection.begin() as transaction:
        run_all(
            connection,
            "CREATE ROLE doc_owner NOLOGIN",
            "CREATE ROLE doc_app LOGIN",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO doc_app",
            *(f"ALTER TABLE {name} OWNER TO doc_owner" for name in (*metadata.tables, "doc_events_1")),
        )
        yield connection
        transaction.rollback()


def run_all(connection, *statements):
    for statement in statements:
        connection.execute(sa.text(statement.replace(":", r"\:")))


def diagnose(connection, models=metadata):
    found = examine(connection, models, roles=["doc_app"])
    # The version of the server is not mended by SQL.
    return [finding for finding in found if finding.code != "planner-statistics"]


def test_a_healthy_database_has_no_findings(connection):
    assert diagnose(connection) == []


ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO

DISEASES = {
    "40 not forced": ("ALTER TABLE doc_accounts NO FORCE ROW LEVEL SECURITY", "rls-not-forced", WARNING),
    "40 not forced, and the application is the owner": (
        "ALTER TABLE doc_accounts OWNER TO doc_app; ALTER TABLE doc_accounts NO FORCE ROW LEVEL SECURITY",
        "rls-not-forced role-owner",
        ERROR,
    ),
    "40 function of the owner": (
        ("CREATE FUNCTION doc_f() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = public "
        "AS 'SELECT count(*) FROM doc_accounts'"),
        "function-of-owner",
        ERROR,
    ),
    "60 function without a search_path": (
        "CREATE FUNCTION doc_f(a integer, b text) RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "function-search-path",
        INFO,
    ),
    "41 materialized view": (
        "CREATE MATERIALIZED VIEW doc_m AS SELECT * FROM doc_accounts; GRANT SELECT ON doc_m TO doc_app, PUBLIC",
        "materialized-view",
        ERROR,
    ),
    "42 view of a superuser": ("CREATE VIEW doc_v AS SELECT * FROM doc_accounts", "view-of-owner", ERROR),
    "42 view of a view": (
        "CREATE VIEW doc_v WITH (security_invoker) AS SELECT * FROM doc_lines; CREATE VIEW doc_w AS SELECT * FROM doc_v",
        "view-of-owner",
        ERROR,
    ),
    "40 view of the owner": (
        "CREATE VIEW doc_v AS SELECT * FROM doc_accounts; ALTER VIEW doc_v OWNER TO doc_owner",
        "view-of-owner",
        WARNING,
    ),
    "43 superuser": ("ALTER ROLE doc_app SUPERUSER", "role-superuser", ERROR),
    "43 bypass": ("ALTER ROLE doc_app BYPASSRLS", "role-bypassrls", ERROR),
    "44 membership": ("GRANT doc_owner TO doc_app", "role-membership", ERROR),
    "44 membership in a server role": ("GRANT pg_read_all_data TO doc_app", "role-membership schema-one-role", ERROR),
    "45 another permissive policy": ("CREATE POLICY doc_p ON doc_accounts USING (true)", "policy-extra", INFO),
    "45 another permissive policy and no boundary": (
        "CREATE POLICY doc_p ON doc_accounts USING (true); DROP POLICY dotmac_tenant_boundary ON doc_accounts",
        "policy-extra policy-boundary",
        ERROR,
    ),
    "45 boundary with a hole": (
        f"ALTER POLICY dotmac_tenant_boundary ON doc_accounts USING (tenant_id = {SETTING} OR code = 'x')",
        "policy-boundary",
        ERROR,
    ),
    "45 boundary of a table that hangs on another": (
        "ALTER POLICY dotmac_tenant_boundary ON doc_lines USING (true)",
        "policy-boundary",
        ERROR,
    ),
    "our rows closed": ("DROP POLICY dotmac_tenant_rows ON doc_accounts", "policy-rows", INFO),
    "46 partition": ("ALTER TABLE doc_events_1 DISABLE ROW LEVEL SECURITY", "rls-off", ERROR),
    "46 new partition": (
        "CREATE TABLE doc_events_2 PARTITION OF doc_events FOR VALUES FROM (9) TO (20)",
        "rls-off",
        ERROR,
    ),
    "47 new table": (
        'CREATE TABLE "doc New" (tenant_id uuid NOT NULL, id uuid, PRIMARY KEY (tenant_id, id))',
        "rls-off",
        ERROR,
    ),
    "47 new table without index": ("CREATE TABLE doc_new (tenant_id bigint)", "rls-off tenant-index tenant-nullable", ERROR),
    "48 truncate": ("GRANT TRUNCATE ON doc_accounts TO doc_app, PUBLIC", "truncate-granted", ERROR),
    "49 reference": (
        ("ALTER TABLE doc_accounts ADD UNIQUE (id); ALTER TABLE doc_orders ADD CONSTRAINT doc_fk FOREIGN KEY (account_id) "
        "REFERENCES doc_accounts (id) ON DELETE CASCADE"),
        "foreign-key-without-tenant unique-without-tenant",
        ERROR,
    ),
    "49 reference that sets null": (
        ("CREATE TABLE doc_u (tenant_id text NOT NULL, id uuid PRIMARY KEY); CREATE INDEX ON doc_u (tenant_id); "
        "ALTER TABLE doc_orders ADD COLUMN u uuid REFERENCES doc_u (id) ON DELETE SET NULL"),
        "foreign-key-without-tenant rls-off",
        ERROR,
    ),
    "50 unique constraint": ("ALTER TABLE doc_accounts ADD UNIQUE (code)", "unique-without-tenant", WARNING),
    "50 unique index": (
        "CREATE UNIQUE INDEX doc_i ON doc_accounts (lower(code)) WHERE code <> ''",
        "unique-without-tenant",
        WARNING,
    ),
    "50 primary key": (
        ("ALTER TABLE doc_accounts DROP CONSTRAINT doc_accounts_pkey, ADD PRIMARY KEY (id); "
        "CREATE INDEX ON doc_accounts (tenant_id)"),
        "unique-without-tenant",
        INFO,
    ),
    "51 sequence": (
        ("ALTER TABLE doc_accounts ALTER id ADD GENERATED BY DEFAULT AS IDENTITY; "
        "GRANT ALL ON SEQUENCE doc_accounts_id_seq TO doc_app"),
        "shared-sequence",
        WARNING,
    ),
    "collation": (
        ("CREATE COLLATION doc_ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false); "
        "CREATE TABLE doc_new (tenant_id text COLLATE doc_ci NOT NULL, id uuid, PRIMARY KEY (tenant_id, id))"),
        "tenant-collation rls-off",
        ERROR,
    ),
    "56 hostile schema": ('CREATE SCHEMA "tenant_a\';drop"', "schema-name schema-table-missing", ERROR),
    "57 case": (
        'CREATE SCHEMA "Tenant_A"',
        "schema-name",
        WARNING,
    ),
    "57 cut": (f"CREATE SCHEMA x{'y' * 62}", "schema-name", WARNING),
    "57 reserved": ("ALTER SCHEMA tenant_c RENAME TO tenant_public", "schema-name", WARNING),
    "58 missing": ("DROP TABLE tenant_b.things", "schema-table-missing", WARNING),
    "58 falls through": (
        "DROP TABLE tenant_b.things; CREATE TABLE public.things (id uuid)",
        "schema-table-missing",
        ERROR,
    ),
    "59 adopted schema": ("ALTER SCHEMA tenant_b OWNER TO doc_app", "schema-owner", WARNING),
    "60 create for all": ("GRANT CREATE ON SCHEMA tenant_b TO PUBLIC", "schema-create-public", WARNING),
    "60 reference across schemas": (
        "ALTER TABLE tenant_a.things ADD FOREIGN KEY (id) REFERENCES tenant_b.things (id)",
        "foreign-key-across-schemas",
        ERROR,
    ),
    "60 one role for all schemas": ("GRANT USAGE ON SCHEMA tenant_a, tenant_b TO doc_app", "schema-one-role", WARNING),
    "enum in each schema": (
        ("CREATE TYPE tenant_a.doc_e AS ENUM ('x'); CREATE TYPE tenant_b.doc_e AS ENUM ('x'); "
        "ALTER TABLE tenant_a.things ADD e tenant_a.doc_e; ALTER TABLE tenant_b.things ADD e tenant_b.doc_e"),
        "schema-enum",
        INFO,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("disease", "codes", "severity"), DISEASES.values(), ids=DISEASES.keys())
def test_a_disease_is_found_mended_by_its_sql_and_gone(connection, disease, codes, severity):
    models = None if "58" in codes or "schema" in codes else metadata
    try:
        run_all(connection, *disease.split("; "))
    except sa.exc.NotSupportedError:
        pytest.skip("this server is built without ICU")
    findings = diagnose(connection, models)
    assert {finding.code for finding in findings} >= set(codes.split())
    named = [finding for finding in findings if finding.code in codes.split()]
    assert max(finding.severity for finding in named) is severity
    for _ in range(2):  # a cure may uncover what was hidden behind it
        for finding in findings:
            assert finding.sql, finding
            run_all(connection, *finding.sql)
        findings = diagnose(connection, models)
    assert [finding.code for finding in findings] == []


def test_models_tell_tables_that_are_shared(connection):
    run_all(
        connection,
        "CREATE TABLE doc_shared (tenant_id text NOT NULL)",
        "CREATE INDEX ON doc_shared (tenant_id)",
    )
    assert "rls-off" in {finding.code for finding in diagnose(connection, None)}
    models = sa.MetaData()
    for table in metadata.tables.values():
        table.to_metadata(models)
    sa.Table("doc_shared", models, sa.Column("tenant_id", sa.Text), info={"tenant_scoped": False})
    assert diagnose(connection, models) == []


def test_a_table_that_hangs_on_another_is_known_by_the_models(connection):
    run_all(connection, "ALTER TABLE doc_lines DISABLE ROW LEVEL SECURITY")
    assert [finding.code for finding in diagnose(connection)] == ["rls-off"]


@pytest.mark.parametrize(
    ("version", "is_ill"),
    [(150013, True), (150014, False), (160009, True), (170005, True), (170006, False), (180000, False), (130010, True)],
)  # fmt: skip
def test_servers_that_tell_statistics_are_known_by_their_version(connection, version, is_ill):
    facts = read_facts(connection, roles=["doc_app"])
    aged = replace(facts, server={**facts.server, "version": version})
    assert ("planner-statistics" in {finding.code for finding in judge(aged, metadata)}) is is_ill


def test_names_are_printed_whole_whatever_the_search_path(connection):
    run_all(connection, "SET LOCAL search_path = tenant_a, public")
    assert diagnose(connection) == []
    assert connection.scalar(sa.text("SHOW search_path")) == "tenant_a, public"


def test_a_role_that_is_not_there_is_named(connection):
    with pytest.raises(ConfigurationError, match="no role nobody_such"):
        examine(connection, roles=["nobody_such"])


async def test_it_examines_over_asyncpg(engine):
    asynchronous = create_async_engine(engine.url.set(drivername="postgresql+asyncpg"), poolclass=NullPool)
    async with asynchronous.connect() as connection:
        findings = await connection.run_sync(examine, metadata)
    await asynchronous.dispose()
    assert {"role-superuser", "role-bypassrls"} <= {finding.code for finding in findings}


def url_of(engine, **options):
    return engine.url.set(drivername="postgresql+asyncpg", **options).render_as_string(hide_password=False)


@pytest.fixture
def ill(engine):
    with engine.begin() as connection:
        run_all(connection, "CREATE SCHEMA doc_open", "GRANT CREATE ON SCHEMA doc_open TO PUBLIC")
    yield url_of(engine)
    with engine.begin() as connection:
        run_all(connection, "DROP SCHEMA doc_open")


@pytest.fixture
def app(dotmac_postgres):
    """The name of the role that the test server's applications use."""
    return sa.make_url(dotmac_postgres.url()).username


@pytest.mark.parametrize(("fail_on", "status"), [("error", 0), ("warning", 3), ("info", 3), ("never", 0)])
def test_the_command_fails_from_the_chosen_severity_on(ill, app, fail_on, status, capsys):
    ended = run(
        [
            "doctor",
            "--url",
            ill,
            "--role",
            app,
            "--fail-on",
            fail_on,
            "--ignore",
            "planner-statistics",
            "--json",
        ]
    )
    report = json.loads(capsys.readouterr().out)["findings"]
    assert [finding["code"] for finding in report] == ["schema-create-public"]
    assert report[0]["sql"] == ['REVOKE CREATE ON SCHEMA "doc_open" FROM PUBLIC']
    assert report[0]["severity"] == "warning"
    assert ended == status


def test_the_command_prints_a_table_and_the_sql(ill, capsys):
    assert run(["doctor", "--url", ill]) == 4
    said = capsys.readouterr().out
    assert "role-superuser" in said
    assert 'REVOKE CREATE ON SCHEMA "doc_open" FROM PUBLIC;' in said


def test_the_command_asks_about_the_user_of_the_application(
    engine, dotmac_postgres, app, monkeypatch, capsys
):
    monkeypatch.setenv("DATABASE_URL", dotmac_postgres.url())
    monkeypatch.setenv("ADMIN_DATABASE_URL", url_of(engine))
    assert run(["doctor", "--ignore", "planner-statistics"]) == 0
    assert "Nothing was found." in capsys.readouterr().out


@pytest.mark.parametrize("path", ["no_such_module:Base", "json:Base", "json:dumps"])
def test_models_that_are_not_there_are_wrong_usage(ill, path, capsys):
    assert run(["doctor", "--url", ill, "--metadata", path]) == 2
    assert "--metadata" in capsys.readouterr().err


def test_another_database_is_refused(tmp_path, capsys):
    assert run(["doctor", "--url", f"sqlite+aiosqlite:///{tmp_path}/x.db"]) == 1
    assert "examines PostgreSQL and MySQL" in capsys.readouterr().err


def test_a_mysql_collation_that_mixes_tenants_up_is_mended(mysql_url):
    engine = sa.create_engine(sa.make_url(mysql_url).set(drivername="mysql+pymysql"), poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(
            sa.text(
                "CREATE TABLE doc_my (tenant_id varchar(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL)"
            )
        )
        try:
            findings = [finding for finding in examine(connection) if "doc_my" in finding.object]
            assert [finding.code for finding in findings] == ["tenant-collation"]
            run_all(connection, *findings[0].sql)
            assert [finding for finding in examine(connection) if "doc_my" in finding.object] == []
        finally:
            connection.execute(sa.text("DROP TABLE doc_my"))
