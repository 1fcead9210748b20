"""Code written for a layer of models, mixins and async sessions (`dotmac_shared.database`) runs here unchanged."""

from __future__ import annotations

import subprocess
import sys
import uuid
from typing import Optional

import httpx
import pytest
from fastapi import Depends, FastAPI
from pydantic import BaseModel as Schema
from sqlalchemy import Column, Numeric, String, Text, inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Mapped, mapped_column

from dotmac.database import (
    AuditMixin,
    Base,
    BaseModel,
    DatabaseSettings,
    RequestContext,
    SoftDeleteMixin,
    TenantAwareMixin,
    create_async_engine,
    create_async_repository,
    get_async_db_connection,
    get_db,
    get_read_session,
    get_write_session,
    use_context,
    with_async_session,
)


class Person(BaseModel):
    __tablename__ = "base_layer_people"

    email = Column(String(255), unique=True, nullable=False)
    name = Column(String(255), nullable=False)


class Product(BaseModel):
    __tablename__ = "base_layer_products"

    name = Column(String(255), nullable=False)
    price = Column(Numeric(10, 2), nullable=False)


class Category(BaseModel, SoftDeleteMixin):
    __tablename__ = "base_layer_categories"

    name = Column(String(255), nullable=False)


class Order(BaseModel, AuditMixin):
    __tablename__ = "base_layer_orders"

    total = Column(Numeric(10, 2), nullable=False)


class Document(BaseModel, TenantAwareMixin):
    __tablename__ = "base_layer_documents"

    content = Column(Text)


class CompanyBase(Base):
    """A base without a table, a key or a declaration that it is abstract."""

    organization_id: Mapped[Optional[str]] = mapped_column(String(50))  # noqa: UP045 - as older code spells it

    @classmethod
    def get_table_prefix(cls) -> str:
        return "company_"


class Asset(CompanyBase):
    __tablename__ = "base_layer_assets"

    name: Mapped[str] = mapped_column(String(255))


MODELS = [Person, Product, Category, Order, Document, Asset]


class PersonIn(Schema):
    email: str
    name: str


def an_email():
    return f"{uuid.uuid4().hex}@example.com"


@pytest.fixture
async def sessions(engine):
    return async_sessionmaker(engine)


async def test_a_model_of_plain_columns_has_a_key_and_timestamps(sessions):
    async with with_async_session(sessions) as session:
        product = Product(name="Chair", price=49)
        session.add(product)
        await session.flush()
        assert product.id.version == 7
        assert product.created_at.tzinfo is not None
        assert product.updated_at is not None
        assert set(product.dict()) == {"id", "name", "price", "created_at", "updated_at"}


async def test_soft_delete_marks_the_row(sessions):
    async with with_async_session(sessions) as session:
        category = Category(name="Chairs")
        session.add(category)
        await session.flush()
        assert (category.is_active, category.deleted_at, category.is_deleted) == (True, None, False)
        category.soft_delete()
        await session.flush()
        assert (category.is_active, category.is_deleted) == (False, True)
        found = await session.scalars(select(Category).where(Category.is_deleted))
        assert category in found.all()


async def test_audit_fields_come_from_the_context(sessions):
    with use_context(RequestContext(user_id="ada", request_id="r-1")):
        async with with_async_session(sessions) as session:
            order = Order(total=10)
            session.add(order)
            await session.flush()
            assert (order.created_by, order.updated_by, order.request_id) == ("ada", "ada", "r-1")


async def test_tenant_id_is_an_ordinary_indexed_column(sessions):
    for content, tenant in (("ours", "acme"), ("theirs", "other")):
        with use_context(RequestContext(tenant_id=tenant)):
            async with with_async_session(sessions) as session:
                session.add(Document(content=content, tenant_id=tenant))
    async with with_async_session(sessions) as session:
        found = await create_async_repository(session, Document, "acme").list()
        assert [document.content for document in found] == ["ours"]
    assert any("tenant_id" in index.columns for index in Document.__table__.indexes)


async def test_a_custom_base_prefixes_tables_and_needs_no_primary_key(sessions):
    assert Asset.__table__.name == "company_base_layer_assets"
    async with with_async_session(sessions) as session:
        asset = Asset(name="Desk", organization_id="o-1")
        session.add(asset)
        await session.flush()
        assert (await session.get(Asset, inspect(asset).identity)) is asset


async def test_engine_takes_pool_logging_and_connect_arguments(database_url):
    engine = create_async_engine(
        database_url,
        pool_size=20,
        max_overflow=30,
        pool_recycle=3600,
        pool_pre_ping=True,
        echo=False,
        connect_args={
            "command_timeout": 60,
            "server_settings": {"jit": "off", "application_name": "a-shop"},
        },
    )
    async with engine.connect() as connection:
        assert await connection.scalar(text("SHOW application_name")) == "a-shop"
        assert await connection.scalar(text("SHOW jit")) == "off"
    assert engine.pool.size() == 20
    await engine.dispose()


async def test_with_async_session_commits_and_rolls_back(sessions):
    email = an_email()
    async with with_async_session(sessions) as session:
        session.add(Person(name="Ada", email=email))
    with pytest.raises(RuntimeError, match="stop"):  # noqa: PT012
        async with with_async_session(sessions) as session:
            session.add(Person(name="Eve", email=an_email()))
            await session.flush()
            raise RuntimeError("stop")
    async with with_async_session(sessions) as session:
        names = (await session.scalars(select(Person.name).where(Person.email == email))).all()
        assert names == ["Ada"]
        assert (await session.scalars(select(Person).where(Person.name == "Eve"))).first() is None


@pytest.mark.filterwarnings("ignore:The `dict` method is deprecated")  # pydantic's, in older code
async def test_fastapi_dependencies_write_commit_and_read(environment):
    app = FastAPI()

    @app.post("/people")
    async def create_person(person_data: PersonIn, db: AsyncSession = Depends(get_db)):  # noqa: B008, FAST002 - as older code has it
        person = Person(**person_data.dict())
        db.add(person)
        await db.commit()
        return person

    @app.put("/people")
    async def put_person(person_data: PersonIn, db: AsyncSession = Depends(get_write_session)):  # noqa: B008, FAST002 - as older code has it
        db.add(Person(**person_data.model_dump()))

    @app.get("/people")
    async def list_people(name: str, db: AsyncSession = Depends(get_read_session)):  # noqa: B008, FAST002 - as older code has it
        result = await db.execute(select(Person).where(Person.name == name))
        return result.scalars().all()

    @app.delete("/people")
    async def delete_people(db: AsyncSession = Depends(get_read_session)):  # noqa: B008, FAST002 - as older code has it
        await db.execute(text("DELETE FROM base_layer_people"))

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        for method in ("POST", "PUT"):
            body = {"name": "Grace", "email": an_email()}
            answer = await client.request(method, "/people", json=body)
            assert answer.status_code == 200, answer.text
            if method == "POST":
                assert uuid.UUID(answer.json()["id"]).version == 7
                assert answer.json()["email"] == body["email"]
        people = (await client.get("/people", params={"name": "Grace"})).json()
        assert [person["name"] for person in people] == ["Grace", "Grace"]
        assert (await client.delete("/people")).status_code == 500
        assert len((await client.get("/people", params={"name": "Grace"})).json()) == 2
    await get_async_db_connection().dispose()


async def test_get_db_is_also_a_context_manager(environment):
    email = an_email()
    async with get_db() as session:
        session.add(Person(name="Linus", email=email))
    async with get_read_session() as session:
        assert (await session.scalars(select(Person.name).where(Person.email == email))).one() == "Linus"
        with pytest.raises(DBAPIError, match="read-only"):
            await session.execute(text("DELETE FROM base_layer_people"))
    await get_async_db_connection().dispose()


def test_environment_variables_are_read(monkeypatch):
    values = {
        "DATABASE_URL": "postgresql+asyncpg://user:pass@localhost/db",
        "SQLALCHEMY_ECHO": "true",
        "REDIS_URL": "redis://cache:6379/0",
        "REDIS_MAX_CONNECTIONS": "7",
        "DB_POOL_SIZE": "21",
        "DB_MAX_OVERFLOW": "31",
        "DB_POOL_RECYCLE": "3601",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = DatabaseSettings()
    assert settings.url == values["DATABASE_URL"]
    assert (settings.pool_size, settings.max_overflow, settings.pool_recycle) == (21, 31, 3601)
    assert settings.echo is True
    assert settings.redis_url.get_secret_value() == "redis://cache:6379/0"
    assert settings.redis_max_connections == 7
    engine = create_async_engine("postgresql+asyncpg://user:pass@localhost/db")
    assert (engine.pool.size(), engine.echo) == (21, True)
    quiet = create_async_engine("postgresql+asyncpg://user:pass@localhost/db", echo=False, pool_size=3)
    assert (quiet.pool.size(), quiet.echo) == (3, False)


async def test_two_engines_split_reading_from_writing(tables, database_url):
    read_engine, write_engine = create_async_engine(database_url), create_async_engine(database_url)
    read_session, write_session = async_sessionmaker(read_engine), async_sessionmaker(write_engine)

    async def get_read_db():
        async with read_session() as session:
            try:
                yield session
            finally:
                await session.close()

    async def get_write_db():
        async with write_session() as session:
            try:
                yield session
                await session.commit()
            except Exception:
                await session.rollback()
                raise
            finally:
                await session.close()

    email = an_email()
    async for session in get_write_db():
        session.add(Person(name="Barbara", email=email))
    async for session in get_read_db():
        assert (await session.scalars(select(Person.name).where(Person.email == email))).one() == "Barbara"
    await read_engine.dispose()
    await write_engine.dispose()


ENV = """
import asyncio

from alembic import context
from dotmac.database.alembic import get_alembic_config_url, include_object
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import async_engine_from_config

config = context.config
config.set_main_option("sqlalchemy.url", get_alembic_config_url())

def include_object_callback(object, name, type_, reflected, compare_to):
    return include_object(
        object, name, type_, reflected, compare_to, skip_schemas={"information_schema", "pg_catalog"}, skip_views=True
    )

def migrate(connection):
    context.configure(
        connection=connection, target_metadata=MetaData(), include_object=include_object_callback
    )
    with context.begin_transaction():
        context.run_migrations()

async def main():
    engine = async_engine_from_config(config.get_section(config.config_ini_section))
    async with engine.begin() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()

asyncio.run(main())
"""


def test_an_alembic_environment_borrows_the_url_and_the_filter(tmp_path, tables, database_url):
    (tmp_path / "migrations" / "versions").mkdir(parents=True)
    (tmp_path / "migrations" / "env.py").write_text(ENV)
    (tmp_path / "alembic.ini").write_text(
        f"[alembic]\nscript_location = {tmp_path}/migrations\npath_separator = os\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=tmp_path,
        env={"DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert inspect(tables).has_table("alembic_version")


SUITE = """
import pytest
import pytest_asyncio
from sqlalchemy import Column, String
from sqlalchemy.ext.asyncio import async_sessionmaker
from dotmac.database import Base, BaseModel, create_async_engine

class User(BaseModel):
    __tablename__ = "users"

    email = Column(String(255), unique=True, nullable=False)
    name = Column(String(255), nullable=False)

@pytest_asyncio.fixture
async def test_engine():
    engine = create_async_engine("sqlite+aiosqlite:///:memory:")
    async with engine.begin() as conn:
        await conn.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()

@pytest_asyncio.fixture
async def test_session(test_engine):
    async_session = async_sessionmaker(test_engine)
    async with async_session() as session:
        yield session
        await session.rollback()

@pytest.mark.asyncio
async def test_user_creation(test_session):
    user = User(name="Test User", email="test@example.com")
    test_session.add(user)
    await test_session.flush()
    assert user.id is not None
    assert user.created_at is not None
"""


def test_a_suite_of_its_own_fixtures_runs_on_sqlite(pytester):
    pytester.makepyfile(SUITE)
    pytester.runpytest_subprocess("-p", "no:xdist").assert_outcomes(passed=1)
