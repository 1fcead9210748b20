"""Code written for an async-first layer (`src.database`: SQLModel, stateless repositories, services) runs here.

Its users and tasks live on in the application template, `taskboard`; its generic parts in `dotmac.database.sqlmodel`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid

import httpx
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncSession  # noqa: TC002 - FastAPI reads annotations
from sqlmodel import Field, SQLModel
from taskboard import settings as taskboard_settings
from taskboard.database import check_connection_health, get_async_db_connection
from taskboard.database.models import (
    Model,
    TaskCreate,
    TaskRead,
    TaskStatus,
    TaskUpdate,
    User,
    UserCreate,
    UserRead,
    UserUpdate,
)
from taskboard.database.models import Task as BoardTask
from taskboard.database.repositories import TaskRepository, UserRepository
from taskboard.services.operations import TaskService, UserService

import dotmac.database
from dotmac.database import DatabaseSettings
from dotmac.database.sqlmodel import BaseModel, CRUDRepository, TimestampMixin, UUIDMixin


class Gadget(BaseModel, UUIDMixin, TimestampMixin, table=True):
    """A table of the mixins alone."""

    __tablename__ = "async_layer_gadgets"

    name: str = Field(unique=True, max_length=50)
    rank: int = 0


class GadgetCreate(SQLModel):
    """What a new one is made of."""

    name: str
    rank: int = 0


class GadgetUpdate(SQLModel):
    """What may change."""

    name: str | None = None
    rank: int | None = None


class GadgetRepository(CRUDRepository[Gadget]):
    """A repository as the layer writes one."""

    def __init__(self):
        super().__init__(Gadget)


MODELS = [User, BoardTask, Gadget]


@pytest.fixture(scope="module")
def tables(dotmac_postgres, database_url):
    del dotmac_postgres
    engine = dotmac.database.create_engine(database_url)
    Model.metadata.create_all(engine)
    Gadget.__table__.create(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def board(environment):
    """The template's process-wide database, from the environment, for one tenant; its tables are empty."""
    environment.setenv("TASKBOARD_TENANT", "acme")
    cached = (
        get_async_db_connection,
        taskboard_settings.get_settings,
        taskboard_settings.get_database_settings,
    )
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.fixture
async def session(board):
    async with get_async_db_connection().engine.begin() as connection:
        await connection.execute(text("TRUNCATE users, tasks, async_layer_gadgets"))
    async with get_async_db_connection().create_session() as session:
        yield session


def test_sessions_work_in_one_event_loop_after_another(board):
    async def create_user(username):
        async_db = get_async_db_connection()
        user_repo = UserRepository()
        async with async_db.create_session() as session:
            user = await user_repo.create(session, UserCreate(username=username))
        return user.username

    async def find_user(username):
        async with get_async_db_connection().create_session() as session:
            return await UserRepository().get_by_username(session, username)

    name = uuid.uuid4().hex
    assert asyncio.run(create_user(name)) == name
    assert asyncio.run(find_user(name)).username == name
    assert asyncio.run(check_connection_health()) is True


async def test_the_generic_connection_comes_from_the_environment_too(environment):
    async_db = dotmac.database.get_async_db_connection()
    async with async_db.create_session() as session:
        gadget = await GadgetRepository().create(session, GadgetCreate(name=uuid.uuid4().hex))
    async with async_db.create_session() as session:
        assert await GadgetRepository().exists(session, gadget.id) is True
    assert await async_db.check() is True
    await async_db.dispose()


async def test_fastapi_serves_read_schemas_through_a_dependency_of_its_own(board, session):
    await session.commit()
    app = FastAPI()
    user_repo = UserRepository()
    async_db = get_async_db_connection()

    async def get_async_session():
        async with async_db.create_session() as opened:
            yield opened

    @app.get("/users/", response_model=list[UserRead])
    async def get_users(session: AsyncSession = Depends(get_async_session)):  # noqa: B008, FAST002 - as older code has it
        return await user_repo.get_multi(session, limit=10)

    @app.post("/users/", response_model=UserRead)
    async def create_user(user_data: UserCreate, session: AsyncSession = Depends(get_async_session)):  # noqa: B008, FAST002
        return await user_repo.create(session, user_data)

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://board") as client:
        made = await client.post("/users/", json={"username": "ada"})
        assert made.status_code == 200, made.text
        assert (await client.get("/users/")).json() == [made.json()]


async def test_user_repository_has_every_method(session):
    user_repo, task_repo = UserRepository(), TaskRepository()
    user = await user_repo.create(session, UserCreate(username="john_doe"))
    assert await user_repo.get(session, user.id) is user
    assert await user_repo.get_multi(session, skip=0, limit=10, filters={"username": "john_doe"}) == [user]
    assert (await user_repo.update(session, user, UserUpdate(username="john"))).username == "john"
    assert await user_repo.get_by_username(session, "john") is user
    assert await user_repo.username_exists(session, "john") is True
    assert await user_repo.username_exists(session, "new_user") is False
    await task_repo.create(session, TaskCreate(title="New task", description="…", user_id=user.id))
    with_tasks = await user_repo.get_user_with_tasks(session, user.id)
    assert [task.title for task in with_tasks.tasks] == ["New task"]
    assert await user_repo.get_users_with_task_counts(session, limit=5) == [(user, 1)]
    assert await user_repo.delete(session, user.id) is True
    assert await user_repo.get(session, user.id) is None
    assert await task_repo.count(session) == 0


async def test_task_repository_has_every_method(session):
    user_repo, task_repo = UserRepository(), TaskRepository()
    user = await user_repo.create(session, UserCreate(username="john_doe"))
    task = await task_repo.create(session, TaskCreate(title="Search term here", user_id=user.id))
    assert await task_repo.get(session, task.id) is task
    assert task.status is TaskStatus.PENDING
    bulk = await task_repo.bulk_create(
        session, [TaskCreate(title=f"Bulk task {number}", user_id=user.id) for number in range(5)]
    )
    assert [made.title for made in bulk] == [f"Bulk task {number}" for number in range(5)]
    await task_repo.update(session, bulk[0], TaskUpdate(status=TaskStatus.COMPLETED))
    await task_repo.update(session, bulk[1], TaskUpdate(status=TaskStatus.IN_PROGRESS))
    assert len(await task_repo.get_by_user(session, user.id)) == 6
    assert await task_repo.get_by_status(session, TaskStatus.COMPLETED) == [bulk[0]]
    assert await task_repo.get_completed_tasks(session) == [bulk[0]]
    assert await task_repo.get_in_progress_tasks(session) == [bulk[1]]
    assert len(await task_repo.get_pending_tasks(session)) == 4
    assert await task_repo.search_by_title(session, "search TERM") == [task]
    assert await task_repo.get_user_tasks_by_status(session, user.id, TaskStatus.COMPLETED) == [bulk[0]]
    assert len(await task_repo.get_multi(session, skip=1, limit=3, filters={"user_id": user.id})) == 3
    assert await task_repo.delete(session, task.id) is True
    assert await task_repo.get(session, task.id) is None


async def test_base_repository_has_every_method(session):
    repo = GadgetRepository()
    gadget = await repo.create(session, GadgetCreate(name="a"))
    made = await repo.bulk_create(session, [GadgetCreate(name=name) for name in "bcd"])
    assert await repo.count(session) == 4
    assert await repo.count(session, {"name": ["a", "b"]}) == 2
    assert await repo.exists(session, gadget.id) is True
    assert await repo.bulk_update(session, [{"id": row.id, "rank": 5} for row in made]) == 3
    assert await repo.count(session, filters={"rank": 5}) == 3
    assert (await repo.update(session, gadget, GadgetUpdate(rank=1))).rank == 1
    assert gadget.name == "a"
    assert await repo.bulk_delete(session, [row.id for row in made]) == 3
    assert await repo.delete(session, gadget.id) is True
    assert await repo.exists(session, gadget.id) is False


async def test_repositories_work_on_sqlite_in_memory(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "sqlite+aiosqlite:///:memory:")
    async with dotmac.database.AsyncDatabase() as async_db:
        async with async_db.engine.begin() as connection:
            await connection.run_sync(Gadget.__table__.create)
        async with async_db.create_session() as session:
            made = await GadgetRepository().bulk_create(session, [GadgetCreate(name=name) for name in "ab"])
        async with async_db.create_session() as session:
            [second] = await GadgetRepository().get_multi(session, skip=1, limit=5)
            assert second.id == made[1].id


async def test_services_hold_the_rules(session):
    user_service, task_service = UserService(), TaskService()
    user = await user_service.create_user(session, UserCreate(username="john_doe"))
    task_create = TaskCreate(title="New task", description="Task description", user_id=user.id)
    task = await task_service.create(session, task_create)
    completed_task = await task_service.mark_completed(session, task.id)
    assert completed_task.status is TaskStatus.COMPLETED
    assert completed_task.completed_at is not None
    assert TaskRead.model_validate(completed_task).title == "New task"


async def test_mixins_give_a_key_and_timestamps(session):
    before = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)
    gadget = await GadgetRepository().create(session, {"name": "stamped"})
    assert gadget.id.version == 7
    assert before < gadget.created_at
    assert gadget.updated_at.tzinfo is not None


def test_the_status_has_four_values():
    assert [status.value for status in TaskStatus] == ["PENDING", "IN_PROGRESS", "COMPLETED", "CANCELLED"]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+asyncpg://user:password@host:5432/dbname",
        "mysql+aiomysql://user:password@host:3306/dbname",
        "sqlite+aiosqlite:///data/app.db",
        "sqlite+aiosqlite:///:memory:",
    ],
)
def test_configuration_variables_are_read(monkeypatch, url):
    values = {
        "DATABASE_URL": url,
        "DATABASE_POOL_SIZE": "6",
        "DATABASE_MAX_OVERFLOW": "11",
        "DATABASE_POOL_TIMEOUT": "31",
        "DATABASE_POOL_RECYCLE": "3601",
        "SQL_ECHO": "true",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = DatabaseSettings()
    assert settings.url == url
    assert (settings.pool_size, settings.max_overflow) == (6, 11)
    assert (settings.pool_timeout, settings.pool_recycle, settings.echo) == (31, 3601, True)
    engine = dotmac.database.create_async_engine()
    assert engine.url == make_url(url)
