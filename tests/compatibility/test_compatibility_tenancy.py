"""Code written for layers with row-level security and a schema per tenant runs here with its imports changed only."""

# ruff: noqa: B008, FAST002 - FastAPI reads defaults and annotations at run time

from __future__ import annotations

import asyncio
import uuid

import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from sqlalchemy import Column, String, Text, select, text
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from dotmac.database import (
    Base,
    BaseModel,
    BaseTenantRepository,
    TenantAwareMixin,
    TenantMixin,
    clear_rls_context,
    create_repository,
    create_session_factory,
    get_db,
    set_rls_context,
    set_schema_search_path,
    with_async_session,
)
from dotmac.database.errors import TenantError


class TenantData(BaseModel, TenantAwareMixin):
    __tablename__ = "tenancy_layer_data"

    content = Column(Text)


class User(Base, TenantMixin):
    __tablename__ = "tenancy_layer_users"

    id = Column(UUID, primary_key=True)
    tenant_id = Column(String, nullable=False)
    name = Column(String)


MODELS = [TenantData, User]


@pytest.fixture(autouse=True)
async def data(tables):
    """One row of each of two tenants in the shared table, and a schema for each with one row of its own."""
    insert = (
        "INSERT INTO {}tenancy_layer_data (id, tenant_id, content) VALUES (gen_random_uuid(), '{}', '{}')"
    )
    table = TenantData.__table__
    with tables.begin() as connection:
        for name in ("acme", "globex"):
            connection.execute(text(f"CREATE SCHEMA tenant_{name}"))
            connection.execute(
                text(f"CREATE TABLE tenant_{name}.{table.name} (LIKE public.{table.name} INCLUDING ALL)")
            )
            connection.execute(text(insert.format("public.", name, f"of {name}")))
            connection.execute(text(insert.format(f"tenant_{name}.", name, f"in tenant_{name}")))
    yield
    with tables.begin() as connection:
        connection.execute(text(f"TRUNCATE public.{table.name}, {User.__table__.name}"))
        connection.execute(text("DROP SCHEMA tenant_acme, tenant_globex CASCADE"))


def extract_tenant_id(request: Request) -> str:
    return request.headers["X-Tenant-ID"]


class FakeUser:
    id = "user-1"


async def _authenticated(app, scope, receive, send):
    scope["user"] = FakeUser()
    await app(scope, receive, send)


def _client(app) -> httpx.AsyncClient:
    async def authenticated(scope, receive, send):
        await _authenticated(app, scope, receive, send)

    return httpx.AsyncClient(transport=httpx.ASGITransport(authenticated), base_url="http://test")


async def test_the_middleware_that_sets_the_row_level_context_runs(environment):
    app = FastAPI()

    @app.middleware("http")
    async def tenant_rls_middleware(request: Request, call_next):
        tenant_id = extract_tenant_id(request)

        async with get_db() as session:
            await set_rls_context(
                session, tenant_id=tenant_id, user_id=request.user.id, client_ip=request.client.host
            )
            request.state.seen = await session.scalar(text("SELECT current_setting('app.tenant_id', true)"))

            response = await call_next(request)

            await clear_rls_context(session)

            return response

    @app.get("/data")
    async def data(request: Request, db: AsyncSession = Depends(get_db)):
        result = await db.execute(select(TenantData))
        return [request.state.seen, [row.content for row in result.scalars().all()]]

    async with _client(app) as client:
        answers = await asyncio.gather(
            *(client.get("/data", headers={"X-Tenant-ID": name}) for name in ("acme", "globex") * 3)
        )
    assert [answer.json() for answer in answers] == [
        [name, [f"of {name}"]] for name in ("acme", "globex") * 3
    ]


async def test_a_plain_session_sees_its_tenants_rows_until_the_context_is_cleared(engine):
    async with async_sessionmaker(engine)() as session:
        await set_rls_context(session, tenant_id="acme", user_id="user-1", client_ip="10.0.0.1")
        assert [row.content for row in await session.scalars(select(TenantData))] == ["of acme"]
        settings = "SELECT current_setting('app.tenant_id'), current_setting('app.user_id'), current_setting('app.client_ip')"
        assert tuple((await session.execute(text(settings))).one()) == ("acme", "user-1", "10.0.0.1")
        await clear_rls_context(session)
        assert not session.identity_map
        with pytest.raises(TenantError):
            await session.scalars(select(TenantData))


async def test_the_dependency_that_switches_the_schema_runs(engine):
    async_session = create_session_factory(engine)
    app = FastAPI()

    async def get_tenant_session(tenant_id: str):
        async with with_async_session(async_session) as session:
            await set_schema_search_path(session, tenant_id=tenant_id)
            yield session

    @app.get("/tenant-data")
    async def get_tenant_data(tenant_id: str, session: AsyncSession = Depends(get_tenant_session)):
        result = await session.execute(select(TenantData))
        return [row.content for row in result.scalars().all()]

    async with _client(app) as client:
        answers = await asyncio.gather(
            *(client.get("/tenant-data", params={"tenant_id": name}) for name in ("acme", "globex") * 3)
        )
    assert [answer.json() for answer in answers] == [[f"in tenant_{name}"] for name in ("acme", "globex") * 3]


def test_a_tenant_repository_filters_by_its_tenant(tables):
    factory = create_session_factory(tables)
    with factory() as db:
        user_repo = create_repository(db, User, "tenant-123")
        user_repo.create({"id": uuid.uuid4(), "name": "ours"})
        db.commit()
    with factory() as db:
        create_repository(db, User, tenant_id="tenant-456").create({"id": uuid.uuid4(), "name": "theirs"})
        db.commit()
    with factory() as db:
        user_repo = BaseTenantRepository(db, User, tenant_id="tenant-123")
        users = user_repo.list({})
        assert [user.name for user in users] == ["ours"]
