# ruff: noqa: S608 - statements as published
"""Schemas of tenants and the table of tenants, as code written for the layer with named connections uses them."""

from __future__ import annotations

import uuid

import asyncpg
import pytest
from sqlalchemy import Column, MetaData, String, Table, Uuid, pool

from dotmac.database import RequestContext, TenantId, create_async_engine, use_context
from dotmac.database.connections import SchemaResolver, SchemaResolverProtocol
from dotmac.database.errors import (
    DatabaseError,
    MissingTenantError,
    SchemaError,
    TenantNotFoundError,
    TenantSuspendedError,
    ValidationError,
)
from dotmac.database.tenancy import DirectoryOptions, TenantDirectory

METADATA = MetaData()
USERS = Table(
    "users",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("email", String(255)),
    Column("tenant_id", String(63)),
)


@pytest.fixture
async def platform(dotmac_postgres):
    """A directory on a database of its own, and a connection as the platform's code opens it."""
    name = f"compatibility_{uuid.uuid4().hex[:12]}"
    dotmac_postgres.create_database(name)
    engine = create_async_engine(dotmac_postgres.url(name), poolclass=pool.NullPool)
    directory = TenantDirectory(engine, DirectoryOptions(metadata=METADATA))
    await directory.install()
    connection = await asyncpg.connect(dotmac_postgres.url(name, driver=None))
    yield directory, connection
    await connection.close()
    await engine.dispose()
    dotmac_postgres.drop_database(name)


def test_the_resolver_is_what_the_protocol_asks_for():
    assert isinstance(SchemaResolver(), SchemaResolverProtocol)


@pytest.mark.parametrize(
    ("arguments", "schema"),
    [
        ({}, "admin"),
        ({"context_type": "shared"}, "shared"),
        ({"tenant_id": "tenant-123", "context_type": "tenant"}, "tenant_tenant__123"),
        ({"tenant_id": "acme", "context_type": "tenant"}, "tenant_acme"),
    ],
)
async def test_each_kind_of_work_has_a_schema_that_validates(arguments, schema):
    schema_resolver = SchemaResolver()
    assert await schema_resolver.resolve_schema(**arguments) == schema
    assert await schema_resolver.validate_schema_name(schema)
    assert await schema_resolver.get_admin_schema() == "admin"


async def test_a_tenants_id_made_of_a_uuid_names_its_schema():
    tenant_id = TenantId("550e8400-e29b-41d4-a716-446655440000")
    schema_name = await SchemaResolver().get_tenant_schema(str(tenant_id))
    assert schema_name == "tenant_550e8400__e29b__41d4__a716__446655440000"


async def test_without_an_id_the_tenant_in_force_is_meant():
    with use_context(RequestContext(tenant_id="acme", user_id="user123")):
        assert await SchemaResolver().resolve_schema(context_type="tenant") == "tenant_acme"
    with pytest.raises(MissingTenantError):
        await SchemaResolver().resolve_schema(context_type="tenant")


@pytest.mark.parametrize(
    "hostile", ["x; drop schema public", 'a"b', "Ä", "pg_catalog", "public", "a" * 64, "", "user"]
)
async def test_a_hostile_name_is_no_schema(hostile):
    schema_resolver = SchemaResolver()
    assert not await schema_resolver.validate_schema_name(hostile)
    if hostile != "user":  # tenant_user is a fine name
        with pytest.raises((ValidationError, SchemaError)) as refused:
            await schema_resolver.get_tenant_schema(hostile)
        assert isinstance(refused.value, DatabaseError)


async def test_an_unknown_kind_of_work_is_a_wrong_argument():
    with pytest.raises(ValueError, match="admin, tenant, shared"):
        await SchemaResolver().resolve_schema(context_type="everything")


async def test_users_are_read_from_the_schema_the_directory_names(platform):
    directory, conn = platform
    tenant_id = TenantId("550e8400-e29b-41d4-a716-446655440000")
    await directory.create("acme", mode="schema", tenant_id=tenant_id)
    schema_name = await SchemaResolver(directory).get_tenant_schema(str(tenant_id))
    await conn.execute(
        f"INSERT INTO {schema_name}.users (id, email) VALUES (gen_random_uuid(), 'ada@example.com')"
    )
    users = await conn.fetch(f"""
        SELECT id, email FROM {schema_name}.users
    """)
    assert [user["email"] for user in users] == ["ada@example.com"]


async def test_tenants_without_a_schema_have_none_to_resolve(platform):
    directory, _ = platform
    schema_resolver = SchemaResolver(directory)
    shared = await directory.create("shared-one")
    with pytest.raises(SchemaError, match="mode is shared"):
        await schema_resolver.get_tenant_schema(shared.id)
    with pytest.raises(TenantNotFoundError):
        await schema_resolver.get_tenant_schema("nobody")
    await directory.suspend(shared.id)
    with pytest.raises(TenantSuspendedError):
        await schema_resolver.get_tenant_schema(shared.id)


async def test_the_platforms_own_statements_on_its_tenants_run(platform):
    directory, conn = platform
    acme = await directory.create("acme", name="Acme, Inc.")
    tenants = await conn.fetch("""
        SELECT id, name, slug FROM admin.tenants
        WHERE is_active = true
    """)
    assert [tuple(tenant) for tenant in tenants] == [(acme.id, "Acme, Inc.", "acme")]
    result = await conn.fetchrow("SELECT COUNT(*) FROM admin.tenants")
    assert result[0] == 1
    tenant_id = TenantId(acme.id)
    await conn.execute("UPDATE admin.tenants SET is_active = $1 WHERE id = $2", False, tenant_id)  # noqa: FBT003 - as published
    assert (await directory.get(acme.id)).status == "suspended"
