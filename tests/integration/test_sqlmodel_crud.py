"""A stateless repository keeps the core's rules for SQLModel, declarative and imperative models, on real servers."""
# No `from __future__ import annotations`: SQLModel reads relationship annotations as they stand.

import datetime as dt
import uuid
from enum import StrEnum

import pytest
from sqlalchemy import Column, Integer, String, Table, make_url
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column, registry
from sqlmodel import Field, Relationship, SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession as SQLModelAsyncSession

from dotmac.database.context import RequestContext, use_context
from dotmac.database.engine import create_async_engine
from dotmac.database.errors import (
    DuplicateEntityError,
    EntityNotFoundError,
    MissingTenantError,
    TenantMismatchError,
    ValidationError,
)
from dotmac.database.models import BaseModel as DeclarativeModel
from dotmac.database.query import FilterGroup, FilterOperator, QueryFilter, SortField, SortOrder
from dotmac.database.sqlmodel import (
    AuditMixin,
    BaseModel,
    CRUDRepository,
    SoftDeleteMixin,
    TenantMixin,
    TimestampMixin,
    UUIDMixin,
)

# SQLAlchemy loads relationships with execute(), which SQLModel's own sessions deprecate.
pytestmark = pytest.mark.filterwarnings("ignore:[\\s\\S]*session.exec\\(\\):DeprecationWarning")


class Mood(StrEnum):
    CALM = "calm"
    BUSY = "busy"


class PersonFields(BaseModel):
    name: str = Field(max_length=50, unique=True)
    mood: Mood = Mood.CALM
    age: int | None = None
    seen_at: dt.datetime | None = None


class Person(PersonFields, UUIDMixin, TimestampMixin, table=True):
    __tablename__ = "crud_people"

    pets: list["Pet"] = Relationship(back_populates="owner", cascade_delete=True)


class PersonCreate(PersonFields):
    pass


class PersonUpdate(BaseModel):
    name: str | None = None
    mood: Mood | None = None
    age: int | None = None


class PersonRead(PersonFields, UUIDMixin, TimestampMixin):
    pass


class Pet(BaseModel, UUIDMixin, table=True):
    __tablename__ = "crud_pets"

    name: str
    owner_id: uuid.UUID = Field(foreign_key="crud_people.id", ondelete="CASCADE")
    owner: Person = Relationship(back_populates="pets")


class Memo(BaseModel, UUIDMixin, TenantMixin, SoftDeleteMixin, AuditMixin, TimestampMixin, table=True):
    __tablename__ = "crud_memos"

    text: str = Field(max_length=200)


class Plain(DeclarativeModel):
    __tablename__ = "crud_plain"

    name: Mapped[str] = mapped_column(String(50))


class Mapped2:
    """Mapped imperatively."""


mapper_registry = registry()
mapper_registry.map_imperatively(
    Mapped2,
    Table(
        "crud_mapped",
        mapper_registry.metadata,
        Column("id", Integer(), primary_key=True),
        Column("name", String(50)),
    ),
)

TABLES = [Person.__table__, Pet.__table__, Memo.__table__, Plain.__table__, Mapped2.__table__]


class PersonRepository(CRUDRepository[Person]):
    def __init__(self) -> None:
        super().__init__(Person)


class MemoRepository(CRUDRepository[Memo]):
    model = Memo


people, memos, pets = PersonRepository(), MemoRepository(), CRUDRepository(Pet)


@pytest.fixture(params=["asyncpg", "psycopg", "aiosqlite", "asyncmy"])
async def engine(request):
    if request.param == "aiosqlite":
        url = "sqlite+aiosqlite:///:memory:"
    elif request.param == "asyncmy":
        url = make_url(request.getfixturevalue("mysql_url")).set(drivername="mysql+asyncmy")
    else:
        url = request.getfixturevalue("dotmac_database").url(request.param)
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        for table in TABLES:
            await connection.run_sync(table.create)
    yield engine
    async with engine.begin() as connection:
        for table in reversed(TABLES):
            await connection.run_sync(table.drop)
    await engine.dispose()


@pytest.fixture(params=[AsyncSession, SQLModelAsyncSession], ids=["sqlalchemy", "sqlmodel"])
async def session(engine, request):
    async with request.param(engine, expire_on_commit=False) as session:
        yield session


async def test_create_fills_what_the_server_sets_in_one_statement(engine, session, count_statements):
    with count_statements(engine, at_most=2 if engine.dialect.name == "mysql" else 1):
        person = await people.create(session, PersonCreate(name="Ada", age=36))
    assert (person.id.version, person.mood, person.age) == (7, Mood.CALM, 36)
    assert person.created_at.utcoffset() == dt.timedelta(0)
    assert PersonRead.model_validate(person).created_at == person.created_at


async def test_update_returns_the_same_object_with_the_new_timestamp_loaded(session):
    person = await people.create(session, {"name": "Ada"})
    assert await people.update(session, person, PersonUpdate(mood=Mood.BUSY)) is person
    assert (person.name, person.mood) == ("Ada", Mood.BUSY)
    assert "updated_at" not in sa_inspect(person).unloaded
    assert person.updated_at.tzinfo is not None


async def test_get_gives_the_row_its_relationships_or_none(session):
    person = await people.create(session, {"name": "Ada"})
    await pets.bulk_create(session, [{"name": "Rex", "owner_id": person.id}])
    session.expunge_all()
    found = await people.get(session, str(person.id), load=["pets"])
    assert [pet.name for pet in found.pets] == ["Rex"]
    assert await people.get(session, uuid.uuid4()) is None
    assert await people.exists(session, person.id)
    assert not await people.exists(session, uuid.uuid4())


async def test_get_multi_slices_the_total_order(session):
    made = await people.bulk_create(session, [{"name": f"p{n}", "age": n % 3} for n in range(10)])
    assert [row.name for row in await people.get_multi(session)] == [row.name for row in made]
    assert [row.name for row in await people.get_multi(session, 7, 2)] == ["p7", "p8"]
    assert await people.get_multi(session, limit=0) == []
    oldest = await people.get_multi(session, limit=3, sorts=[SortField(field="age", order=SortOrder.DESC)])
    assert [row.age for row in oldest] == [2, 2, 2]


@pytest.mark.parametrize("window", [{"skip": -1}, {"limit": -1}])
async def test_a_negative_window_is_refused(session, window):
    with pytest.raises(ValueError, match="start from 0"):
        await people.get_multi(session, **window)


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (None, ["a", "b", "c"]),
        ({}, ["a", "b", "c"]),
        ({"age": 1}, ["a"]),
        ({"age": None}, ["c"]),
        ({"age": [1, 2], "mood": "calm"}, ["a", "b"]),
        ({"age": []}, []),
        ([QueryFilter(field="name", operator=FilterOperator.CONTAINS, value="b")], ["b"]),
        ([{"field": "age", "operator": "gt", "value": "1"}], ["b"]),
        (FilterGroup(none_of=[QueryFilter(field="name", value="a")]), ["b", "c"]),
        ([QueryFilter(field="seen_at", operator=FilterOperator.GT, value="2026-01-01T00:00:00Z")], ["c"]),
    ],
)
async def test_filters_are_values_or_query_filters(session, filters, names):
    await people.bulk_create(
        session,
        [
            {"name": "a", "age": 1},
            {"name": "b", "age": 2},
            {"name": "c", "seen_at": "2026-02-01T00:00:00+02:00"},
        ],
    )
    rows = await people.get_multi(session, filters=filters)
    assert [row.name for row in rows] == names
    assert await people.count(session, filters) == len(names)


async def test_bulk_writes_report_how_many_rows_they_reached(session):
    made = await people.bulk_create(session, [PersonCreate(name=f"p{n}") for n in range(3)])
    changes = [{"id": row.id, "age": n} for n, row in enumerate(made)]
    assert await people.bulk_update(session, [*changes, {"id": uuid.uuid4(), "age": 9}]) == 3
    assert [row.age for row in made] == [0, 1, 2]
    assert await people.bulk_delete(session, [made[0].id, uuid.uuid4()]) == 1
    assert await people.count(session) == 2


async def test_delete_tells_whether_the_row_was_there_and_cascades(session):
    person = await people.create(session, {"name": "Ada"})
    await pets.create(session, {"name": "Rex", "owner_id": person.id})
    assert await people.delete(session, person.id)
    assert not await people.delete(session, person.id)
    assert await pets.count(session) == 0


async def test_nothing_is_committed(engine, session):
    await people.create(session, {"name": "Ada"})
    await session.rollback()
    assert await people.count(session) == 0


async def test_errors_are_those_of_the_core(session):
    with pytest.raises(ValidationError, match="no field 'nickname'"):
        await people.create(session, {"name": "Ada", "nickname": "A"})
    with pytest.raises(ValidationError, match="not in the database yet"):
        await people.update(session, Person(name="Ada"), {"age": 1})
    with pytest.raises(TypeError, match="is a Person, not a Pet"):
        await people.update(session, Pet(name="Rex"), {"age": 1})
    gone = await people.create(session, {"name": "Eve"})
    await people.bulk_delete(session, [gone.id])
    session.expunge_all()
    with pytest.raises(EntityNotFoundError):
        await people.update(session, gone, {"age": 1})
    await people.create(session, {"name": "Ada"})
    with pytest.raises(DuplicateEntityError):
        await people.create(session, {"name": "Ada"})


async def test_tenant_soft_delete_and_author_come_from_the_context(engine, session):
    with pytest.raises(MissingTenantError):
        await memos.create(session, {"text": "x"})
    await session.rollback()
    with use_context(RequestContext(tenant_id="acme", user_id="ada", request_id="r1")):
        memo = await memos.create(session, {"text": "x"})
        assert (memo.tenant_id, memo.created_by, memo.request_id, memo.is_active) == (
            "acme",
            "ada",
            "r1",
            True,
        )
        with pytest.raises(TenantMismatchError):
            await memos.create(session, {"text": "x", "tenant_id": "other"})
    await session.commit()
    with use_context(RequestContext(tenant_id="other")):
        async with type(session)(engine) as another:
            assert await memos.get(another, memo.id) is None
            assert not await memos.exists(another, memo.id)
            assert await memos.get_multi(another) == []
            assert await memos.bulk_update(another, [{"id": memo.id, "text": "stolen"}]) == 0
            assert await memos.bulk_delete(another, [memo.id]) == 0
            with pytest.raises(EntityNotFoundError):
                await memos.update(another, memo, {"text": "stolen"})
    with use_context(RequestContext(tenant_id="acme", user_id="bob")):
        async with type(session)(engine, expire_on_commit=False) as session_of_bob:
            memo = await memos.get(session_of_bob, memo.id)
            assert await memos.delete(session_of_bob, memo.id)
            assert memo.is_deleted
            assert memo.updated_by == "bob"
            assert await memos.count(session_of_bob) == 0
            await memos.on(session_of_bob).restore(memo.id)
            assert not memo.is_deleted
            assert await memos.count(session_of_bob) == 1


@pytest.mark.parametrize("model", [Plain, Mapped2], ids=["declarative", "imperative"])
async def test_other_mappings_have_the_same_repository(session, model):
    repository = CRUDRepository(model)
    [first, second] = await repository.bulk_create(session, [{"name": "a"}, {"name": "b"}])
    assert (await repository.update(session, second, {"name": "c"})).name == "c"
    assert await repository.get(session, first.id) is first
    assert await repository.bulk_update(session, [{"id": first.id, "name": "z"}]) == 1
    assert [row.name for row in await repository.get_multi(session, filters={"name": ["z", "c"]})] == [
        "z",
        "c",
    ]
    assert await repository.delete(session, first.id)
    assert await repository.count(session) == 1


def test_a_repository_without_a_model_is_refused():
    with pytest.raises(TypeError, match="needs a model"):
        CRUDRepository()


def test_tables_are_those_of_sqlmodel():
    assert SQLModel.metadata.tables["crud_people"] is Person.__table__
