"""Every query, on PostgreSQL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from dotmac.database import RequestContext, use_context
from dotmac.database.errors import DuplicateEntityError, MissingTenantError
from sqlalchemy.ext.asyncio import AsyncSession

from taskboard.database import TaskboardDatabase
from taskboard.database.models import Task, TaskCreate, TaskStatus, TaskUpdate, User, UserCreate, UserUpdate
from taskboard.database.repositories import TaskRepository, UserRepository
from taskboard.settings import get_settings

users, tasks = UserRepository(), TaskRepository()


@pytest.fixture
async def board(session: AsyncSession, user: User) -> list[Task]:
    """One task of each status, and a deleted one."""
    rows = [
        TaskCreate(title=f"Fix the roof, part {status}", status=status, user_id=user.id)
        for status in TaskStatus
    ]
    created = await tasks.bulk_create(session, [*rows, TaskCreate(title="Deleted roof", user_id=user.id)])
    await tasks.delete(session, created[-1].id)
    return created[:-1]


async def test_users_are_created_found_changed_and_deleted(session: AsyncSession) -> None:
    user = await users.create(session, UserCreate(username="ada"))
    assert await users.get(session, user.id) is user
    assert await users.get_by_username(session, "ada") is user
    assert await users.get_by_username(session, "nobody") is None
    assert await users.username_exists(session, "ada")
    assert not await users.username_exists(session, "Ada")
    assert (await users.update(session, user, UserUpdate(username="countess"))).username == "countess"
    assert await users.count(session) == 1
    assert await users.exists(session, user.id)
    assert await users.delete(session, user.id)
    assert not await users.exists(session, user.id)
    assert not await users.delete(session, user.id)


async def test_get_multi_skips_limits_and_filters(session: AsyncSession) -> None:
    created = await users.bulk_create(session, [UserCreate(username=f"user{n}") for n in range(5)])
    assert await users.get_multi(session, skip=1, limit=3) == created[1:4]
    assert await users.get_multi(session, filters={"username": "user4"}) == created[4:]


async def test_a_username_is_taken_once_per_tenant(database: TaskboardDatabase, user: User) -> None:
    with use_context(RequestContext(tenant_id="birch")):
        async with database.create_session() as other:
            await users.create(other, UserCreate(username=user.username))
        with pytest.raises(DuplicateEntityError, match="uq_users_tenant_id_username"):
            async with database.create_session() as other:
                await users.create(other, UserCreate(username=user.username))


async def test_a_user_comes_with_the_tasks_that_are_not_deleted(
    session: AsyncSession, user: User, board: list[Task]
) -> None:
    session.expunge_all()
    found = await users.get_user_with_tasks(session, user.id)
    assert found is not None
    assert {task.id for task in found.tasks} == {task.id for task in board}


async def test_users_are_counted_with_their_tasks(
    session: AsyncSession, user: User, board: list[Task]
) -> None:
    idle = await users.create(session, UserCreate(username="aaa"))
    assert await users.get_users_with_task_counts(session) == [(idle, 0), (user, len(board))]
    assert await users.get_users_with_task_counts(session, limit=1) == [(idle, 0)]


async def test_deleting_a_user_deletes_the_tasks(
    session: AsyncSession, user: User, board: list[Task]
) -> None:
    session.expunge_all()
    await users.delete(session, user.id)
    assert await tasks.count(session) == 0


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (lambda session, user: tasks.get_by_user(session, user.id), list(TaskStatus)),
        (lambda session, _: tasks.get_by_status(session, TaskStatus.CANCELLED), [TaskStatus.CANCELLED]),
        (lambda session, _: tasks.get_completed_tasks(session), [TaskStatus.COMPLETED]),
        (lambda session, _: tasks.get_pending_tasks(session), [TaskStatus.PENDING]),
        (lambda session, _: tasks.get_in_progress_tasks(session), [TaskStatus.IN_PROGRESS]),
        (
            lambda session, _: tasks.search_by_title(session, "ROOF, part c"),
            [TaskStatus.COMPLETED, TaskStatus.CANCELLED],
        ),
        (lambda session, _: tasks.search_by_title(session, "%"), []),
        (
            lambda session, user: tasks.get_user_tasks_by_status(session, user.id, TaskStatus.PENDING),
            [TaskStatus.PENDING],
        ),
    ],
)
async def test_task_queries_find_live_tasks_in_order(
    session: AsyncSession,
    user: User,
    board: list[Task],
    query: Callable[[AsyncSession, User], Awaitable[list[Task]]],
    expected: list[TaskStatus],
) -> None:
    assert [task.status for task in await query(session, user)] == expected


async def test_tasks_are_changed_and_deleted_in_bulk(session: AsyncSession, board: list[Task]) -> None:
    changes: list[dict[str, Any]] = [{"id": task.id, "title": f"New {task.status}"} for task in board]
    assert await tasks.bulk_update(session, changes) == len(board)
    assert [task.title for task in board] == [change["title"] for change in changes]
    assert await tasks.bulk_delete(session, [task.id for task in board[:3]]) == 3
    assert await tasks.count(session) == 1


async def test_an_update_touches_only_what_was_set(session: AsyncSession, board: list[Task]) -> None:
    task = await tasks.update(session, board[0], TaskUpdate(description="More"))
    assert (task.title, task.description, task.updated_by) == ("Fix the roof, part PENDING", "More", "tester")


async def test_statuses_are_counted_zero_included(session: AsyncSession, user: User) -> None:
    await tasks.create(session, TaskCreate(title="One", user_id=user.id))
    counts = await tasks.count_by_status(session)
    assert counts == dict.fromkeys(TaskStatus, 0) | {TaskStatus.PENDING: 1}


async def test_a_session_without_a_tenant_is_refused(database: TaskboardDatabase) -> None:
    async with database.create_session() as session:
        with pytest.raises(MissingTenantError):
            await users.count(session)


async def test_scripts_work_for_the_tenant_in_the_settings(
    database: TaskboardDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKBOARD_TENANT", "acme")
    get_settings.cache_clear()
    try:
        async with database.create_session() as session:
            user = await users.create(session, UserCreate(username="script"))
            task = await tasks.create(session, TaskCreate(title="Run", user_id=user.id))
            assert (user.tenant_id, task.tenant_id) == ("acme", "acme")
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()
