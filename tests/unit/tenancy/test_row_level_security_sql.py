"""Policies as text, and the judgement of catalog rows, without a server."""

# ruff: noqa: S608 - nothing is run
from __future__ import annotations

import pytest
import sqlalchemy as sa

from dotmac.database.tenancy import (
    PERMISSIVE_POLICY,
    RESTRICTIVE_POLICY,
    RoleFacts,
    RolePlan,
    TenantRule,
    role_statements,
    row_level_security_sql,
    rule_of,
    secured,
    verified,
)
from dotmac.database.tenancy.doctor import DatabaseFacts, judge

SETTING = "nullif(current_setting('app.tenant_id', true), '')"
PRINTED = "((tenant_id)::text = NULLIF(current_setting('app.tenant_id'::text, true), ''::text))"

metadata = sa.MetaData()
accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("tenant_id", sa.String(20), primary_key=True),
    sa.Column("id", sa.Integer, primary_key=True),
)
lines = sa.Table(
    "lines",
    metadata,
    sa.Column("owner", sa.String(20), nullable=False),
    sa.Column("account_id", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(["owner", "account_id"], ["accounts.tenant_id", "accounts.id"]),
)
places = sa.Table("places", metadata, sa.Column("id", sa.Integer, primary_key=True))


def test_a_table_gets_both_policies_before_security_is_switched_on():
    assert row_level_security_sql(accounts) == [
        f'DROP POLICY IF EXISTS {PERMISSIVE_POLICY} ON "accounts"',
        (
            f'CREATE POLICY {PERMISSIVE_POLICY} ON "accounts" AS PERMISSIVE FOR ALL TO PUBLIC '
            f'USING ("tenant_id" = {SETTING}) WITH CHECK ("tenant_id" = {SETTING})'
        ),
        f'DROP POLICY IF EXISTS {RESTRICTIVE_POLICY} ON "accounts"',
        (
            f'CREATE POLICY {RESTRICTIVE_POLICY} ON "accounts" AS RESTRICTIVE FOR ALL TO PUBLIC '
            f'USING ("tenant_id" = {SETTING}) WITH CHECK ("tenant_id" = {SETTING})'
        ),
        'ALTER TABLE "accounts" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY',
    ]


def test_an_owned_table_asks_its_owner():
    rule = rule_of(lines)
    assert rule.predicate('"lines"') == (
        'EXISTS (SELECT 1 FROM "accounts" AS tenant_owner_1 WHERE tenant_owner_1."tenant_id" = "lines"."owner" AND '
        f'tenant_owner_1."id" = "lines"."account_id" AND tenant_owner_1."tenant_id" = {SETTING})'
    )


def test_owners_come_first_and_shared_tables_not_at_all():
    tables = [
        sql.split(" ON ")[1].split()[0]
        for sql in row_level_security_sql(metadata)
        if sql.startswith("CREATE")
    ]
    assert tables == ['"accounts"', '"accounts"', '"lines"', '"lines"']
    assert row_level_security_sql(places) == []


def test_names_and_schemas_are_quoted():
    table = sa.Table('a"b', sa.MetaData(), sa.Column('t"x', sa.Text, key="tenant_id"), schema="s;s")
    sql = row_level_security_sql(table)
    assert 'ON "s;s"."a""b" AS' in sql[1]
    assert '"t""x" = nullif' in sql[1]
    assert sql[-1] == 'CREATE INDEX IF NOT EXISTS "ix_a""b_t""x" ON "s;s"."a""b" ("t""x")'


@pytest.mark.parametrize(
    ("printed", "is_ours"),
    [
        (PRINTED, True),
        ("(tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text))", True),
        ("(\"tenant_id\" = NULLIF(current_setting('app.tenant_id'::text, true), ''::text))", True),
        (f"({PRINTED} OR true)", False),
        ("(tenant_id = current_setting('app.tenant_id'::text, true))", False),
        ("((tenant_id)::text = NULLIF(current_setting('app.tenant_id'::text, true), 'x'::text))", False),
        (
            "(lower((tenant_id)::text) = NULLIF(current_setting('app.tenant_id'::text, true), ''::text))",
            False,
        ),
        ("(other_tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text))", False),
        ("true", False),
        (None, False),
    ],
)
def test_only_the_exact_predicate_is_ours(printed, is_ours):
    assert TenantRule().matches("accounts", "public", printed) is is_ours


def row(
    position=0,
    schema="public",
    name="accounts",
    *,
    enabled=True,
    forced=True,
    active=True,
    policy=RESTRICTIVE_POLICY,
    permissive=False,
    for_all=True,
    using=PRINTED,
    check=PRINTED,
):
    return (position, schema, name, enabled, forced, active, policy, permissive, for_all, using, check)


@pytest.mark.parametrize(
    ("rows", "is_bound"),
    [
        ([row()], True),
        ([row(check=None)], True),
        ([row(policy="theirs")], True),
        ([row(), row(permissive=True, policy="open", using="true")], True),
        ([], False),
        ([row(active=False)], False),
        ([row(permissive=True)], False),
        ([row(for_all=False)], False),
        ([row(check="true")], False),
        ([row(), row(name="accounts_1", policy=None, using=None, check=None)], False),
        ([(0, None, None, None, None, None, None, None, None, None, None)], False),
    ],
)
def test_a_table_is_verified_where_every_partition_is_bound(rows, is_bound):
    assert verified([accounts], rows) == ({accounts} if is_bound else set())


def test_a_table_is_secured_by_both_of_our_policies_whoever_asks():
    both = [row(active=False), row(active=False, policy=PERMISSIVE_POLICY, permissive=True)]
    assert secured([accounts], both) == {accounts}
    assert secured([accounts], both[:1]) == set()
    assert secured([accounts], [row(forced=False), *both[1:]]) == set()


def test_a_server_of_nobody_has_no_findings():
    server = {"version": 180001, "release": "18.1", "tenant_column": "tenant_id"}
    assert judge(DatabaseFacts(server)) == []


def test_passwords_are_in_no_text_of_a_statement():
    facts = RoleFacts("shop", 180000, is_superuser=True, roles={}, schemas=frozenset({"public"}))
    statements = role_statements(RolePlan(), facts, {"app": "SCRAM-SHA-256$secret"})
    assert any("SCRAM-SHA-256$secret" in statement.sql for statement in statements)
    assert "secret" not in repr(statements)
