"""What broke repositories on real PostgreSQL: inheritance, COPY, stale sessions, odd keys and tenants."""

from __future__ import annotations

import datetime as dt
import uuid

import pytest
import pytest_asyncio
from sqlalchemy import (
    JSON,
    REAL,
    DateTime,
    ForeignKey,
    LargeBinary,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
    func,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from dotmac.database import (
    DatabasePaginator,
    PerformancePaginator,
    RequestContext,
    UTCDateTime,
    create_async_engine,
    create_async_repository,
)
from dotmac.database.errors import DuplicateEntityError, QueryError, ValidationError
from dotmac.database.tenancy import switch

MANY = range(600)  # enough for COPY


class Base(DeclarativeBase):
    metadata = MetaData()


class Shouted(TypeDecorator):
    """Text that the server turns into upper case."""

    impl = String
    cache_ok = True

    def bind_expression(self, bindparam):
        return func.upper(bindparam)


class Thing(Base):
    __tablename__ = "attacks_things"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    price: Mapped[int | None]
    note: Mapped[str | None]
    weight: Mapped[float | None] = mapped_column(REAL)
    made: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True), default=func.now())
    touched: Mapped[dt.datetime | None] = mapped_column(onupdate=func.now())


class Shout(Base):
    __tablename__ = "attacks_shouts"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(Shouted(20))


class Versioned(Base):
    __tablename__ = "attacks_versioned"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - as SQLAlchemy declares it


class Animal(Base):
    __tablename__ = "attacks_animals"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}  # noqa: RUF012 - likewise

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(20), unique=False)


class Dog(Animal):
    __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012 - likewise


class Cat(Animal):
    __tablename__ = "attacks_cats"
    __mapper_args__ = {"polymorphic_identity": "cat"}  # noqa: RUF012 - likewise

    id: Mapped[str] = mapped_column(ForeignKey("attacks_animals.id"), primary_key=True)
    lives: Mapped[int | None]


class Parent(Base):
    __tablename__ = "attacks_parents"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    children: Mapped[list[Child]] = relationship(lambda: Child, lazy="joined")


class Child(Base):
    __tablename__ = "attacks_children"

    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int] = mapped_column(ForeignKey("attacks_parents.id"))


class New(Base):
    __tablename__ = "new"

    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int]


class OfUuidTenant(Base):
    __tablename__ = "attacks_of_uuid_tenant"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[uuid.UUID] = mapped_column(Uuid())
    value: Mapped[int | None]


class OfNumberedTenant(Base):
    __tablename__ = "attacks_of_numbered_tenant"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int]
    value: Mapped[int | None]


class Corner(Base):
    __tablename__ = "attacks_corners"

    a: Mapped[int] = mapped_column(primary_key=True)
    b: Mapped[int] = mapped_column(primary_key=True)
    c: Mapped[int] = mapped_column(primary_key=True)
    d: Mapped[int] = mapped_column(primary_key=True)


class Moment(Base):
    __tablename__ = "attacks_moments"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[dt.datetime] = mapped_column(UTCDateTime)
    document: Mapped[dict | None] = mapped_column(JSON)
    blob: Mapped[bytes | None] = mapped_column(LargeBinary)


class HalfMapped(Base):
    __table__ = Moment.__table__.to_metadata(Base.metadata, name="attacks_half_mapped")
    __table__.append_constraint(UniqueConstraint("at", "blob"))
    __mapper_args__ = {"exclude_properties": ["blob"]}  # noqa: RUF012 - likewise


@pytest_asyncio.fixture(params=["asyncpg", "psycopg"])
async def engine(request, dotmac_database):
    engine = create_async_engine(dotmac_database.url(request.param))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
    await engine.dispose()


@pytest_asyncio.fixture
async def session(engine):
    async with AsyncSession(engine, expire_on_commit=False, autoflush=False) as session:
        yield session


async def test_copy_is_not_used_where_an_insert_computes_in_sql(session):
    await create_async_repository(session, Thing).bulk_create(
        [{"name": f"n{n}"} for n in MANY], returning=False
    )
    assert not await session.scalar(select(func.count(Thing.id)).where(Thing.made.is_(None)))
    await create_async_repository(session, Shout).bulk_create([{"text": "a"} for _ in MANY], returning=False)
    assert await session.scalar(text("SELECT DISTINCT text FROM attacks_shouts")) == "A"


async def test_many_rows_get_their_class_and_version(session):
    dogs = await create_async_repository(session, Dog).bulk_create(
        [{"id": f"d{n}", "name": "rex"} for n in MANY]
    )
    assert {type(dog) for dog in dogs} == {Dog}
    rows = await create_async_repository(session, Versioned).bulk_create([{"id": f"v{n}"} for n in MANY])
    assert {row.version for row in rows} == {1}
    rows[0].version = rows[0].version  # the unit of work still accepts them
    await session.flush()


async def test_get_or_create_gives_a_row_its_class_and_version(session):
    dog, created = await create_async_repository(session, Dog).get_or_create({"id": "d"}, {"name": "rex"})
    assert created
    assert type(dog) is Dog
    row, _ = await create_async_repository(session, Versioned).get_or_create({"id": "v"})
    assert row.version == 1


async def test_upsert_leaves_a_row_of_another_class_alone(session):
    await create_async_repository(session, Animal).create({"id": "cow", "name": "cow"})
    with pytest.raises(DuplicateEntityError):
        await create_async_repository(session, Dog).upsert({"id": "cow", "name": "dog"})
    assert await session.scalar(text("SELECT name FROM attacks_animals")) == "cow"


@pytest.mark.parametrize(
    "write",
    [
        lambda cats: cats.bulk_update([{"id": "c", "lives": 1}]),
        lambda cats: cats.bulk_delete(["c"]),
        lambda cats: cats.upsert({"id": "c", "name": "tom"}),
        lambda cats: cats.get_or_create({"id": "c"}, {"name": "tom"}),
    ],
    ids=["bulk_update", "bulk_delete", "upsert", "get_or_create"],
)
async def test_writes_of_one_table_refuse_rows_of_several(session, write):
    cats = create_async_repository(session, Cat)
    await cats.create({"id": "c", "name": "tom", "lives": 9})
    with pytest.raises(QueryError, match="several tables"):
        await write(cats)
    assert await cats.count() == 1


async def test_rows_of_several_tables_are_created_in_bulk(session):
    cats = await create_async_repository(session, Cat).bulk_create(
        [{"id": f"c{n}", "name": "tom", "lives": n} for n in MANY]
    )
    assert [cat.lives for cat in cats] == list(MANY)


async def test_collections_loaded_by_a_join_repeat_no_row(session):
    parents = create_async_repository(session, Parent)
    parent = await parents.create({"name": "p"})
    session.add_all([Child(parent_id=parent.id), Child(parent_id=parent.id)])
    await session.flush()
    session.expunge_all()
    key = parent.id
    found = await parents.get_by_id(key)
    assert len(found.children) == 2
    assert await parents.list() == [found]
    assert (await parents.list_paginated({"pagination": {"per_page": 1}})).total == 1
    assert (await parents.cursor_paginate()).items == [found]
    assert await parents.bulk_update([{"id": key, "name": "q"}]) == 1
    assert await parents.upsert({"id": key, "name": "r"}) is found
    session.expunge_all()
    assert [len(each.children) async for each in parents.stream()] == [2]


async def test_a_table_may_be_called_new(session):
    news = create_async_repository(session, New)
    row = await news.create({"value": 1})
    assert await news.bulk_update([{"id": row.id, "value": 2}]) == 1
    assert row.value == 2


@pytest.mark.parametrize(
    ("model", "mine", "other"),
    [(OfUuidTenant, uuid.UUID(int=1), uuid.UUID(int=2)), (OfNumberedTenant, 1, 2)],
    ids=["uuid", "number"],
)
async def test_a_tenant_may_be_a_uuid_or_a_number(session, model, mine, other):
    rows = create_async_repository(session, model, mine)
    row = await rows.create({"value": 1})
    assert await rows.get_by_id(row.id) is row
    assert await rows.bulk_update([{"id": row.id, "value": 2}]) == 1
    assert await rows.upsert({"id": row.id, "value": 3}) is row
    switch(session.sync_session, RequestContext())
    assert await create_async_repository(session, model, other).count() == 0
    for unfit in ("acme", "007", "1_0"):
        switch(session.sync_session, RequestContext())
        with pytest.raises(ValidationError, match="tenant"):
            await create_async_repository(session, model, unfit).count()


async def test_keys_of_many_parts_go_in_many_statements(session):
    corners = create_async_repository(session, Corner)
    keys = [(n, 1, 1, 1) for n in range(10_500)]
    await corners.bulk_create([dict(zip("abcd", key, strict=True)) for key in keys], returning=False)
    assert await corners.bulk_delete(keys) == len(keys)


async def test_upsert_updates_what_each_row_sets(session):
    things = create_async_repository(session, Thing)
    await things.bulk_create([{"name": "a", "price": 1}, {"name": "b", "price": 1}])
    first, second = await things.upsert_many(
        [{"name": "a", "price": 2}, {"name": "b", "note": "n"}], match=["name"]
    )
    assert (first.price, first.note) == (2, None)
    assert (second.price, second.note) == (1, "n")


async def test_set_based_writes_keep_changes_that_are_not_flushed(session):
    things = create_async_repository(session, Thing)
    thing = await things.create({"name": "a", "price": 1})
    thing.note = "mine"
    await things.bulk_update([{"id": thing.id, "price": 2}])
    assert (thing.price, thing.note) == (2, "mine")
    thing.note = "again"
    await things.upsert({"name": "a", "price": 3}, match=["name"])
    assert (thing.price, thing.note) == (3, "again")


async def test_what_the_server_sets_can_be_read_after_a_write(session):
    things = create_async_repository(session, Thing)
    thing = await things.create({"name": "a"})
    await things.update(thing.id, {"price": 2})
    assert thing.touched is not None
    await things.bulk_update([{"id": thing.id, "price": 3}])
    assert thing.touched is not None


async def test_bulk_update_refreshes_entities_that_a_commit_expired(engine):
    async with AsyncSession(engine) as session:
        things = create_async_repository(session, Thing)
        thing = await things.create({"name": "a"})
        key = thing.id
        await session.commit()
        await things.bulk_update([{"id": key, "price": 3}])
        assert thing.price == 3


async def test_bulk_update_refuses_sql(session):
    things = create_async_repository(session, Thing)
    thing = await things.create({"name": "a", "price": 1})
    with pytest.raises(ValidationError, match="SQL"):
        await things.bulk_update([{"id": thing.id, "price": Thing.price + 1}])


async def test_a_cursor_is_a_position_in_the_database(session):
    things = create_async_repository(session, Thing)
    first, second, _ = await things.bulk_create([{"name": name, "price": n} for n, name in enumerate("abc")])
    first.price = 100  # not flushed
    wanted = {"sorts": [{"field": "price"}]}
    page = await things.cursor_paginate({**wanted, "cursor_pagination": {"limit": 1}})
    following = await things.cursor_paginate(
        {**wanted, "cursor_pagination": {"limit": 1, "cursor": page.next_cursor}}
    )
    assert following.items == [second]


async def test_cursors_walk_over_single_precision_numbers(session):
    things = create_async_repository(session, Thing)
    await things.bulk_create([{"name": str(n), "weight": n / 10} for n in range(1, 6)])
    seen, cursor = [], None
    for _ in range(5):
        page = await things.cursor_paginate(
            {"sorts": [{"field": "weight"}], "cursor_pagination": {"limit": 1, "cursor": cursor}}
        )
        seen += [thing.name for thing in page.items]
        cursor = page.next_cursor
    assert (seen, cursor) == (list("12345"), None)


async def test_cursors_are_bound_to_filters_of_any_value(session):
    moments = create_async_repository(session, Moment)
    await moments.create({"at": dt.datetime.now(dt.UTC), "blob": b"\xff"})
    page = await moments.cursor_paginate({"filters": [{"field": "blob", "value": b"\xff"}]})
    assert len(page.items) == 1
    with pytest.raises(ValidationError, match="surrogate"):
        await create_async_repository(session, Thing).cursor_paginate(
            {"filters": [{"field": "name", "value": "\ud800"}]}
        )


@pytest.mark.parametrize("count", [1, 600])
async def test_a_moment_beyond_the_calendar_is_a_validation_error(session, count):
    late = dt.datetime.max.replace(tzinfo=dt.timezone(dt.timedelta(hours=-5)))
    with pytest.raises(ValidationError):
        await create_async_repository(session, Moment).bulk_create(
            [{"at": late} for _ in range(count)], returning=False
        )


async def test_a_document_that_is_no_json_is_a_validation_error_in_copy_too(session):
    rows = [{"at": dt.datetime.now(dt.UTC), "document": {"id": uuid.uuid4()}} for _ in MANY]
    with pytest.raises(ValidationError, match="JSON"):
        await create_async_repository(session, Moment).bulk_create(rows, returning=False)
    await session.rollback()
    assert await create_async_repository(session, Moment).count() == 0


async def test_moments_are_utc_in_a_session_of_another_time_zone(session):
    await session.execute(text("SET LOCAL TIME ZONE 'Asia/Tokyo'"))
    moments = create_async_repository(session, Moment)
    key = (await moments.create({"at": dt.datetime.now(dt.UTC)})).id
    session.expunge_all()
    assert (await moments.get_by_id(key)).at.utcoffset() == dt.timedelta()


async def test_a_unique_constraint_over_an_unmapped_column_does_no_harm(session):
    rows = create_async_repository(session, HalfMapped)
    assert (await rows.upsert({"id": 1, "at": dt.datetime.now(dt.UTC)})).id == 1


async def test_copy_goes_where_the_schema_is_translated_to(engine):
    async with engine.begin() as connection:
        await connection.execute(text("CREATE SCHEMA attacks_other"))
        await connection.execute(text("CREATE TABLE attacks_other.attacks_corners (LIKE attacks_corners)"))
    try:
        async with AsyncSession(
            engine.execution_options(schema_translate_map={None: "attacks_other"})
        ) as session:
            rows = [{"a": n, "b": 1, "c": 1, "d": 1} for n in MANY]
            await create_async_repository(session, Corner).bulk_create(rows, returning=False)
            counts = text(
                "SELECT (SELECT count(*) FROM attacks_corners), (SELECT count(*) FROM attacks_other.attacks_corners)"
            )
            assert tuple((await session.execute(counts)).one()) == (0, len(rows))
    finally:
        async with engine.begin() as connection:
            await connection.execute(text("DROP SCHEMA attacks_other CASCADE"))


async def test_a_session_with_an_engine_per_model_is_asked_for_the_right_one(engine):
    elsewhere = create_async_engine("sqlite+aiosqlite://")
    async with AsyncSession(elsewhere, binds={Corner: engine}) as session:
        corners = create_async_repository(session, Corner)
        await corners.bulk_create([{"a": n, "b": 1, "c": 1, "d": 1} for n in MANY], returning=False)
        page = await corners.list_paginated({"pagination": {"per_page": 1, "count": "estimate"}})
        assert page.total
        assert (await DatabasePaginator.paginate(session, select(Corner))).total == len(MANY)
    await elsewhere.dispose()


async def test_deep_pages_keep_the_order_of_the_query(session):
    await create_async_repository(session, Thing).bulk_create([{"name": name} for name in "cab"])
    things, total = await PerformancePaginator.deep_pagination_optimize(
        session, select(Thing).order_by(Thing.name)
    )
    assert ([thing.name for thing in things], total) == (list("abc"), 3)
    with pytest.raises(ValueError, match="columns of Thing"):
        await PerformancePaginator.deep_pagination_optimize(
            session, select(Thing).join(Child, Child.id == Thing.id).order_by(Child.id)
        )
