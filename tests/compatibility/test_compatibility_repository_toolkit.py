"""Code written for a toolkit of sync and async repositories (`dotmac_database`) runs here, by its own import name."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import UUID, Boolean, Column, DateTime, String, func, select
from sqlalchemy.orm import Session, declarative_base

import dotmac.database
from dotmac.database import RequestContext
from dotmac.database.errors import MissingTenantError, TenantMismatchError, ValidationError
from dotmac.database.tenancy import switch
from dotmac_database import (
    AsyncRepository,
    AsyncTenantRepository,
    BaseRepository,
    BaseTenantRepository,
    CursorPaginationParams,
    DatabasePaginator,
    FilterOperator,
    PaginationParams,
    PerformancePaginator,
    QueryFilter,
    QueryOptions,
    SortField,
    TenantMixin,
    create_async_repository,
    create_repository,
)
from dotmac_database.testing import InMemoryDatabase, MockRepository

Base = declarative_base()


class User(Base, TenantMixin):
    """Own tenant column, own key without a default: as an application declares them."""

    __tablename__ = "toolkit_users"

    id = Column(UUID, primary_key=True)
    tenant_id = Column(String, nullable=False)
    name = Column(String)
    email = Column(String)
    role = Column(String)
    status = Column(String, default="active")
    category = Column(String)
    is_active = Column(Boolean, default=True)
    created_at = Column(DateTime(timezone=True), server_default=func.now())


class Profile(Base):
    """A model that belongs to no tenant."""

    __tablename__ = "toolkit_profiles"

    id = Column(UUID, primary_key=True)
    name = Column(String)
    bio = Column(String)


class OurUser(dotmac.database.Base, TenantMixin):
    """The same on the library's own declarative base."""

    __tablename__ = "toolkit_our_users"

    id = Column(UUID, primary_key=True)
    tenant_id = Column(String, nullable=False)
    name = Column(String)


MODELS = [User, Profile]


@pytest.fixture
def tenant():
    return f"tenant-{uuid.uuid4().hex}"


@pytest.fixture
def db(tables):
    with Session(tables) as session:
        yield session


@pytest.fixture
async def async_db(engine):
    async with dotmac.database.create_session_factory(engine)() as session:
        yield session


def people(repository):
    return [
        repository.create({"name": name, "email": f"{name}@example.com", "role": role, "category": role})
        for name, role in [
            ("John Doe", "admin"),
            ("Jane Roe", "user"),
            ("JOHN Smith", "user"),
            ("Max", "guest"),
        ]
    ]


def test_basic_usage_creates_gets_and_lists(db, tenant):
    user_repo = create_repository(db, User, tenant)
    assert isinstance(user_repo, BaseTenantRepository)
    user = user_repo.create({"name": "John Doe", "email": "john@example.com"})
    assert isinstance(user.id, uuid.UUID)
    assert user.tenant_id == tenant
    assert user_repo.get_by_id(user.id) is user
    options = QueryOptions(
        filters=[QueryFilter(field="name", operator=FilterOperator.ILIKE, value="john")],
        pagination={"page": 1, "per_page": 20},
    )
    page = user_repo.list_paginated(options)
    assert (page.items, page.total, page.page, page.pages) == ([user], 1, 1, 1)


async def test_async_usage_has_the_same_names(async_db, tenant):
    user_repo = create_async_repository(async_db, User, tenant)
    assert isinstance(user_repo, AsyncTenantRepository)
    user = await user_repo.create({"name": "Jane Doe", "email": "jane@example.com"})
    assert await user_repo.get_by_id(user.id) is user
    options = QueryOptions(
        filters=[QueryFilter(field="name", operator=FilterOperator.ILIKE, value="JANE")],
        pagination={"page": 1, "per_page": 20},
    )
    assert await user_repo.list(options) == [user]


def test_every_repository_method_takes_its_documented_arguments(db, tenant):
    repo = BaseTenantRepository(db, User, tenant_id=tenant)
    user = repo.create({"name": "Ann"}, user_id="admin")
    assert repo.get_by_id(user.id, include_deleted=True) is user
    assert repo.update(user.id, {"name": "Anna"}, user_id="admin").name == "Anna"
    assert repo.list(QueryOptions()) == [user]
    assert repo.list_paginated(QueryOptions()).total == 1
    assert repo.count() == 1
    assert repo.count([QueryFilter(field="name", operator=FilterOperator.EQ, value="Ann")]) == 0
    assert repo.delete(user.id, soft_delete=True, user_id="admin") is True
    assert repo.delete(user.id) is False
    assert repo.get_by_id(user.id) is None


async def test_every_async_repository_method_takes_its_documented_arguments(async_db, tenant):
    repo = AsyncTenantRepository(async_db, User, tenant_id=tenant)
    user = await repo.create({"name": "Ann"}, user_id="admin")
    assert await repo.get_by_id(user.id, include_deleted=True) is user
    assert (await repo.update(user.id, {"name": "Anna"}, user_id="admin")).name == "Anna"
    assert await repo.list(QueryOptions()) == [user]
    assert (await repo.list_paginated(QueryOptions())).total == 1
    assert await repo.count([QueryFilter(field="name", operator=FilterOperator.EQ, value="Anna")]) == 1
    assert await repo.delete(user.id, soft_delete=True, user_id="admin") is True
    assert await repo.get_by_id(user.id) is None


@pytest.mark.parametrize("model", [User, OurUser])
def test_a_tenant_sees_its_own_rows_only(model):
    with InMemoryDatabase(models=[model]) as db:
        mine = BaseTenantRepository(db, model, tenant_id="mine")
        user = mine.create({"name": "Ann"})
        with pytest.raises(TenantMismatchError):
            BaseTenantRepository(db, model, tenant_id="theirs")  # one session, one tenant
        switch(db, RequestContext())
        theirs = BaseTenantRepository(db, model, tenant_id="theirs")
        stranger = theirs.create({"name": "Bob"})
        assert theirs.list({}) == [stranger]
        assert theirs.get_by_id(user.id) is None
        assert theirs.delete(user.id) is False
        switch(db, RequestContext())
        with pytest.raises(MissingTenantError):
            create_repository(db, model)


def test_filters_combine(db, tenant):
    repo = create_repository(db, User, tenant)
    john, _jane, smith, _max = people(repo)
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    options = QueryOptions(
        filters=[
            QueryFilter(field="status", operator=FilterOperator.EQ, value="active"),
            QueryFilter(field="created_at", operator=FilterOperator.GTE, value=yesterday),
            QueryFilter(field="name", operator=FilterOperator.ILIKE, value="john"),
            QueryFilter(field="category", operator=FilterOperator.IN, value=["admin", "user"]),
        ]
    )
    assert {user.id for user in repo.list(options)} == {john.id, smith.id}


def test_offset_pages_count(db, tenant):
    repo = create_repository(db, User, tenant)
    people(repo)
    options = QueryOptions(sorts=[SortField(field="name")], pagination=PaginationParams(page=2, per_page=3))
    result = repo.list_paginated(options)
    assert (result.page, result.pages, result.total, len(result.items)) == (2, 2, 4, 1)
    assert (result.has_next, result.has_prev) == (False, True)


def test_cursor_pages_reach_every_row_once(db, tenant):
    repo = create_repository(db, User, tenant)
    made = people(repo)  # in one transaction: they all have one created_at
    seen, cursor = [], None
    while True:
        params = CursorPaginationParams(limit=3, cursor=cursor, cursor_field="created_at")
        result = repo.cursor_paginate(QueryOptions(cursor_pagination=params))
        seen += result.items
        cursor = result.next_cursor
        if cursor is None:
            break
    assert sorted(user.name for user in seen) == sorted(user.name for user in made)


class UserRepository(BaseTenantRepository):
    """A repository as an application extends it."""

    def get_active_users(self):
        return self.list(QueryOptions(filters=[QueryFilter(field="is_active", value=True)]))

    def get_users_by_role(self, role):
        return self.get_by_field("role", role)

    def search_users(self, query):
        return self.list(
            QueryOptions(
                filters=[
                    QueryFilter(field="name", operator=FilterOperator.ILIKE, value=query),
                    QueryFilter(field="email", operator=FilterOperator.ILIKE, value=query),
                ]
            )
        )


class AsyncUserRepository(AsyncRepository):
    """An asynchronous one that adds nothing."""


def test_custom_repositories_take_session_model_and_tenant(db, tenant):
    repo = UserRepository(db, User, tenant)
    john, *others = people(repo)
    repo.update(others[-1].id, {"is_active": False})
    assert {user.id for user in repo.get_active_users()} == {user.id for user in [john, *others[:-1]]}
    assert repo.get_users_by_role("admin") is john
    assert [user.id for user in repo.search_users("john doe")] == [john.id]


async def test_get_by_field_is_built_in(async_db):
    repo = AsyncUserRepository(async_db, Profile)
    profile = await repo.create({"name": "John", "bio": "…"})
    assert await repo.get_by_field("bio", "…") is profile


def test_filters_as_a_dictionary_are_refused_with_the_way_to_write_them(db, tenant):
    repo = UserRepository(db, User, tenant)
    with pytest.raises(ValidationError, match=r"QueryFilter\(field='is_active'"):
        repo.list({"is_active": True})


def test_list_takes_filters_sorts_and_a_page(db, tenant):
    repo = create_repository(db, User, tenant)
    people(repo)
    options = QueryOptions(
        filters=[QueryFilter(field="status", operator=FilterOperator.EQ, value="active")],
        sorts=[SortField(field="name")],
        pagination=PaginationParams(page=1, per_page=2),
    )
    assert len(repo.list(options)) == 2
    result = repo.list_paginated(options)
    assert (len(result.items), result.total) == (2, 4)


@pytest.mark.parametrize(
    "start", [lambda _: select(User), lambda db: db.query(User)], ids=["select", "query"]
)
def test_large_tables_are_paged_by_estimate_and_by_key(db, tenant, start):
    people(create_repository(db, User, tenant))
    query = start(db).where(User.tenant_id == tenant)
    assert DatabasePaginator.paginate(db, query, page=1, per_page=3).total == 4
    assert len(DatabasePaginator.cursor_paginate(db, query, limit=3).items) == 3
    items, estimate = PerformancePaginator.paginate_with_count_estimate(
        db, query, page=1, per_page=20, count_threshold=10000
    )
    assert (len(items), estimate) == (4, 4)
    items, total = PerformancePaginator.deep_pagination_optimize(
        db, query, page=2, per_page=3, cursor_field="created_at"
    )
    assert (len(items), total) == (1, 4)
    items, _ = PerformancePaginator.paginate_with_count_estimate(db, query, page=1000, per_page=20)
    assert items == []


async def test_large_tables_are_paged_on_an_async_session_too(async_db, tenant):
    repo = create_async_repository(async_db, User, tenant)
    await repo.bulk_create({"name": f"user {number}"} for number in range(5))
    query = select(User).where(User.tenant_id == tenant)
    items, total = await PerformancePaginator.deep_pagination_optimize(async_db, query, page=1, per_page=2)
    assert (len(items), total) == (2, 5)


def test_a_mock_repository_holds_what_it_was_given():
    mock_repo = MockRepository(Profile)
    mock_repo.add_mock_data([{"id": 1, "name": "Test User"}])
    assert isinstance(mock_repo, BaseRepository)
    assert mock_repo.get_by_field("name", "Test User").id == uuid.UUID(int=1)


async def test_a_database_in_memory_serves_repositories():
    async with InMemoryDatabase(Base.metadata) as test_db:
        repo = create_async_repository(test_db, Profile)
        user = await repo.create({"name": "Test"})
        assert await repo.get_by_id(user.id) is user
