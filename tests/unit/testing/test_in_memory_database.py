"""InMemoryDatabase: an ordinary session on tables that are made, and gone with the block."""

from __future__ import annotations

import pytest
from sqlalchemy import ARRAY, MetaData, String
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, Session, mapped_column

from dotmac.database import (
    AuditMixin,
    Base,
    BaseModel,
    RequestContext,
    create_async_repository,
    create_repository,
    use_context,
)
from dotmac.database.errors import ConfigurationError
from dotmac.database.testing import InMemoryDatabase

METADATA = MetaData()


class Page(AuditMixin, BaseModel):
    __tablename__ = "memory_pages"
    metadata = METADATA

    title: Mapped[str] = mapped_column(String(50), unique=True)


class PageWithArray(BaseModel):
    __tablename__ = "memory_arrays"
    metadata = METADATA

    tags: Mapped[list[str]] = mapped_column(ARRAY(String()))


class OwnBase(Base):
    metadata = MetaData()


class OnTheBase(OwnBase):
    __tablename__ = "memory_on_the_base"

    name: Mapped[str] = mapped_column(String(50))


async def test_async_block_gives_an_async_session_for_repositories():
    async with InMemoryDatabase(models=[Page]) as session:
        assert isinstance(session, AsyncSession)
        pages = create_async_repository(session, Page)
        page = await pages.create({"title": "first"})
        await session.commit()
        assert (await pages.get_by_id(page.id)).title == "first"
        assert [p.title async for p in pages.stream()] == ["first"]


def test_block_gives_a_session_for_repositories():
    with InMemoryDatabase(models=[Page]) as session:
        assert isinstance(session, Session)
        assert create_repository(session, Page).create({"title": "first"}).title == "first"


async def test_every_block_begins_empty():
    database = InMemoryDatabase(models=[Page])
    for _ in range(2):
        with database as session:
            create_repository(session, Page).create({"title": "same"})
            session.commit()
        async with database as session:
            await create_async_repository(session, Page).create({"title": "same"})
            await session.commit()


async def test_tables_of_the_base_are_made_by_default(monkeypatch):
    # Base itself also has the models of whatever tests ran before.
    monkeypatch.setattr("dotmac.database.testing._memory.Base", OwnBase)
    async with InMemoryDatabase() as session:
        assert await create_async_repository(session, OnTheBase).count() == 0
    with InMemoryDatabase() as session:
        assert create_repository(session, OnTheBase).count() == 0


async def test_session_is_bound_to_the_context_it_was_opened_in():
    with use_context(RequestContext(user_id="u1")), InMemoryDatabase(models=[Page]) as session:
        assert create_repository(session, Page).create({"title": "x"}).created_by == "u1"


async def test_table_that_sqlite_cannot_have_is_refused_and_nothing_stays_open():
    database = InMemoryDatabase(METADATA)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="memory_arrays"):
            database.__enter__()
        with pytest.raises(ConfigurationError, match="memory_arrays"):
            await database.__aenter__()


async def test_open_database_is_not_opened_again():
    database = InMemoryDatabase(models=[Page])
    async with database:
        with pytest.raises(RuntimeError, match="open already"):
            await database.__aenter__()


def test_metadata_and_models_are_alternatives():
    with pytest.raises(TypeError, match="not both"):
        InMemoryDatabase(METADATA, models=[Page])


def test_error_in_the_block_is_passed_on():
    with pytest.raises(ZeroDivisionError), InMemoryDatabase(models=[Page]):
        raise ZeroDivisionError
