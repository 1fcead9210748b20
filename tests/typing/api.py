"""What type checkers see: mypy --strict and pyright check this file, nothing runs it."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, assert_type

from sqlmodel import Field

from dotmac.database import (
    AsyncRepository,
    AsyncTenantRepository,
    BaseModel,
    BaseRepository,
    BaseTenantRepository,
    CursorPaginationParams,
    CursorPaginationResult,
    FilterGroup,
    FilterOperator,
    PaginationParams,
    PaginationResult,
    QueryFilter,
    QueryOptions,
    SortField,
    SortOrder,
    create_async_repository,
    create_repository,
)
from dotmac.database.caching import EntityCache
from dotmac.database.connections import SchemaResolver, SchemaResolverProtocol
from dotmac.database.sqlmodel import BaseModel as SQLModelBase
from dotmac.database.sqlmodel import CRUDRepository, TimestampMixin, UUIDMixin
from dotmac.database.tenancy import (
    BlockingTenantDirectory,
    Placement,
    PlacementResolver,
    Quotas,
    Tenant,
    TenantDirectory,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Mapped, Session
    from sqlmodel.ext.asyncio.session import AsyncSession as SQLModelAsyncSession


class User(BaseModel):
    """A declarative model."""

    __tablename__ = "typing_users"

    email: Mapped[str]


class Person(SQLModelBase, UUIDMixin, TimestampMixin, table=True):
    """An SQLModel table."""

    __tablename__ = "typing_people"  # pyright: ignore[reportAssignmentType] # SQLModel declares a declared_attr

    name: str = Field(max_length=50)


class PersonCreate(SQLModelBase):
    """A schema."""

    name: str


class Users(AsyncRepository[User]):
    """A repository of one model."""

    model = User
    filterable = ("email",)
    cursor_secret = "secret"


class People(CRUDRepository[Person]):
    """A stateless repository of one model."""

    def __init__(self) -> None:
        super().__init__(Person)


OPTIONS = QueryOptions(
    filters=(
        QueryFilter(field="email", operator=FilterOperator.ILIKE, value="a%"),
        FilterGroup(any_of=(QueryFilter(field="email", value="x"),)),
    ),
    sorts=(SortField(field="email", order=SortOrder.DESC),),
    pagination=PaginationParams(page=2, per_page=50),
    cursor_pagination=CursorPaginationParams(limit=10),
)


def sync_repository(session: Session, key: uuid.UUID) -> None:
    """Blocking."""
    users = create_repository(session, User)
    assert_type(users, BaseRepository[User])
    assert_type(BaseTenantRepository(session, User, "acme"), BaseTenantRepository[User])
    assert_type(users.create({"email": "a"}), User)
    assert_type(users.get_by_id(key), User | None)
    assert_type(users.get_by_id(key, load=["tasks"]), User | None)
    assert_type(users.get_by_id_or_raise(key), User)
    assert_type(users.get_by_field("email", "a"), User | None)
    assert_type(users.update(key, {"email": "b"}), User)
    assert_type(users.delete(key), bool)
    assert_type(users.restore(key), User)
    assert_type(users.list(), list[User])
    assert_type(users.list({"filters": []}), list[User])
    assert_type(users.list_paginated(OPTIONS), PaginationResult[User])
    assert_type(users.list_paginated(OPTIONS).total, int | None)
    assert_type(users.cursor_paginate(OPTIONS), CursorPaginationResult[User])
    assert_type(users.cursor_paginate(OPTIONS).next_cursor, str | None)
    assert_type(users.count([QueryFilter(field="email", value="a")]), int)
    assert_type(users.exists(), bool)
    assert_type(users.bulk_create([{"email": "a"}]), list[User])
    assert_type(users.bulk_create([{"email": "a"}], returning=False), int)
    assert_type(users.bulk_update([{"id": key, "email": "b"}]), int)
    assert_type(users.bulk_delete([key], soft_delete=False), int)
    assert_type(users.upsert({"email": "a"}, match=["email"]), User)
    assert_type(users.upsert_many([{"email": "a"}]), list[User])
    assert_type(users.get_or_create({"email": "a"}), tuple[User, bool])
    for user in users.stream():
        assert_type(user.email, str)


async def async_repository(session: AsyncSession, key: uuid.UUID) -> None:
    """The same names, awaited."""
    assert_type(create_async_repository(session, User), AsyncRepository[User])
    assert_type(create_async_repository(session, User, cache=EntityCache(User)), AsyncRepository[User])
    assert_type(AsyncTenantRepository(session, User, "acme"), AsyncTenantRepository[User])
    users = Users(session)
    user = await users.create({"email": "a"})
    assert_type(user, User)
    assert_type(user.id, uuid.UUID)
    assert_type(user.to_dict(), dict[str, Any])
    assert_type(await users.get_by_id(key), User | None)
    assert_type(await users.get_by_id_or_raise(key), User)
    assert_type(await users.get_by_field("email", "a"), User | None)
    assert_type(await users.update(key, {"email": "b"}), User)
    assert_type(await users.delete(key), bool)
    assert_type(await users.restore(key), User)
    assert_type(await users.list(OPTIONS), list[User])
    assert_type((await users.list_paginated()).items, list[User])
    assert_type((await users.cursor_paginate()).items, list[User])
    assert_type(await users.count(), int)
    assert_type(await users.exists(), bool)
    assert_type(await users.bulk_create([{"email": "a"}]), list[User])
    assert_type(await users.bulk_create([{"email": "a"}], returning=False), int)
    assert_type(await users.bulk_update([{"id": key}]), int)
    assert_type(await users.bulk_delete([key]), int)
    assert_type(await users.upsert({"email": "a"}), User)
    assert_type(await users.upsert_many([{"email": "a"}]), list[User])
    assert_type(await users.get_or_create({"email": "a"}), tuple[User, bool])
    async for streamed in users.stream(OPTIONS, batch_size=10):
        assert_type(streamed, User)


async def stateless_repository(session: SQLModelAsyncSession, key: uuid.UUID) -> None:
    """A session with each call."""
    people = People()
    person = await people.create(session, PersonCreate(name="Ada"))
    assert_type(person, Person)
    assert_type(await people.get(session, key), Person | None)
    assert_type(await people.get_multi(session, 0, 10, {"name": "Ada"}), list[Person])
    assert_type(await people.get_multi(session, filters=OPTIONS.filters), list[Person])
    assert_type(await people.update(session, person, {"name": "Eve"}), Person)
    assert_type(await people.delete(session, key), bool)
    assert_type(await people.count(session, {"name": ["Ada", "Eve"]}), int)
    assert_type(await people.exists(session, key), bool)
    assert_type(await people.bulk_create(session, [PersonCreate(name="Ada")]), list[Person])
    assert_type(await people.bulk_update(session, [{"id": key, "name": "Eve"}]), int)
    assert_type(await people.bulk_delete(session, [key]), int)
    assert_type(people.on(session), AsyncRepository[Person])
    assert_type(CRUDRepository(User), CRUDRepository[User])


async def directory_of_tenants(directory: TenantDirectory, blocking: BlockingTenantDirectory) -> None:
    """Who there is, and where."""
    tenant = await directory.create("acme", mode="schema", quotas=Quotas(connections=4))
    assert_type(tenant, Tenant)
    assert_type(await directory.placement_of(tenant.id), Placement)
    assert_type(await directory.list(), list[Tenant])
    assert_type(blocking.resolve("acme"), Tenant)
    async with directory.admit(tenant.placement()):
        resolver: PlacementResolver = directory
    assert_type(await SchemaResolver(resolver).get_tenant_schema(tenant.id), str)
    resolves: SchemaResolverProtocol = SchemaResolver()
    assert_type(await resolves.validate_schema_name("admin"), bool)
