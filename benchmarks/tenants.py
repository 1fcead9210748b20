"""What the directory of tenants costs: resolving one of 10,000 from memory, and a new schema of 20 tables."""

# ruff: noqa: S608 - names and numbers are its own

from __future__ import annotations

import random
from datetime import timedelta
from typing import TYPE_CHECKING

from benchmarks.harness import Case
from sqlalchemy import Column, DateTime, ForeignKey, Integer, MetaData, String, Table, Text, text

from dotmac.database.tenancy import DirectoryOptions, TenantDirectory
from dotmac.database.tenancy._provisioning import render_tables

if TYPE_CHECKING:
    from benchmarks.cases import Bench

_TENANTS = 10_000
_TABLES = 20

METADATA = MetaData()
for _number in range(_TABLES):
    Table(
        f"bench_{_number}",
        METADATA,
        Column("id", Integer, primary_key=True),
        Column("tenant_id", String(63), nullable=False, index=True),
        Column("title", String(200), nullable=False),
        Column("body", Text),
        Column("at", DateTime(timezone=True), index=True),
        *([Column("parent_id", ForeignKey(f"bench_{_number - 1}.id"), index=True)] if _number else []),
    )


def build(bench: Bench) -> list[Case]:
    """Resolving and provisioning."""
    return [_resolving(bench), _provisioning(bench)]


def _resolving(bench: Bench) -> Case:
    # Long enough that no round of it asks again.
    directory = TenantDirectory(bench.engine, DirectoryOptions(stale_for=timedelta(hours=1)))
    ids = [f"t{number}" for number in range(_TENANTS)]
    is_ready = False

    async def prepare() -> None:
        nonlocal is_ready
        if is_ready:
            return
        is_ready = True
        await directory.install()
        async with bench.engine.begin() as connection:
            await connection.execute(text("DELETE FROM admin.tenants"))
            await connection.execute(
                text(
                    "INSERT INTO admin.tenants (id, slug, mode, schema, quotas) "
                    f"SELECT 't' || n, 's' || n, 'schema', 'tenant_' || n, '{{}}' FROM generate_series(0, {_TENANTS - 1}) n"
                )
            )
        for tenant_id in ids:
            await directory.placement_of(tenant_id)

    known = dict.fromkeys(ids)

    async def lookup(n: int) -> None:
        for _ in range(n):
            assert known[random.choice(ids)] is None

    async def resolving(n: int) -> None:
        await prepare()
        for _ in range(n):
            await directory.placement_of(random.choice(ids))

    return Case(
        "resolve 1 of 10,000 tenants (bar: 50 us)", {"plain dict": lookup, "dotmac": resolving}, times=20_000
    )


def _provisioning(bench: Bench) -> Case:
    directory = TenantDirectory(bench.engine, DirectoryOptions(metadata=METADATA, shared_schema=None))
    ddl = ";\n".join(render_tables(METADATA, METADATA.sorted_tables))
    count = 0

    def name() -> str:
        nonlocal count
        count += 1
        return f"bench-{count}"

    async def bare(n: int) -> None:
        for _ in range(n):
            schema = name().replace("-", "__")
            await bench.raw.execute(
                f"BEGIN; CREATE SCHEMA {schema}; SET LOCAL search_path = {schema};\n{ddl};\nCOMMIT"
            )

    async def ours(n: int) -> None:
        for _ in range(n):
            await directory.create(name(), mode="schema")

    async def table_by_table(n: int) -> None:
        for _ in range(n):
            schema = name().replace("-", "__")
            async with bench.engine.begin() as connection:
                await connection.execute(text(f"CREATE SCHEMA {schema}"))
                await connection.execute(text(f"SET LOCAL search_path = {schema}"))
                await connection.run_sync(METADATA.create_all, checkfirst=False)

    async def after() -> None:
        schemas = await bench.raw.fetch(
            "SELECT nspname FROM pg_namespace WHERE nspname ~ '^(tenant_)?bench__'"
        )
        for (schema,) in schemas:
            await bench.raw.execute(f"DROP SCHEMA {schema} CASCADE")
        await bench.raw.execute("DELETE FROM admin.tenants WHERE slug LIKE 'bench-%'")

    return Case(
        "new schema of 20 tables",
        {"bare DDL, one message": bare, "dotmac": ours, "create_all": table_by_table},
        times=3,
        bar=3.0,
        after=after,
    )
