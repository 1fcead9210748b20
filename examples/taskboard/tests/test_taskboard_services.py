"""Business rules."""

from __future__ import annotations

import uuid

import pytest
from dotmac.database.errors import DuplicateEntityError, EntityNotFoundError
from sqlalchemy.ext.asyncio import AsyncSession

from taskboard.database.models import (
    TaskBulkUpdate,
    TaskCreate,
    TaskStatus,
    TaskUpdate,
    User,
    UserCreate,
    UserUpdate,
)
from taskboard.services.operations import TaskService, TaskStateError, UserService

people, work = UserService(), TaskService()


async def test_a_taken_username_is_refused_before_the_database_does(
    session: AsyncSession, user: User
) -> None:
    with pytest.raises(DuplicateEntityError):
        await people.create_user(session, UserCreate(username=user.username))
    other = await people.create_user(session, UserCreate(username="other"))
    with pytest.raises(DuplicateEntityError):
        await people.rename(session, other.id, UserUpdate(username=user.username))


async def test_a_user_may_keep_the_name(session: AsyncSession, user: User) -> None:
    assert await people.rename(session, user.id, UserUpdate(username=user.username)) is user


async def test_completing_sets_the_time_once_and_reopening_clears_it(
    session: AsyncSession, user: User
) -> None:
    task = await work.create(session, TaskCreate(title="One", user_id=user.id))
    await work.mark_in_progress(session, task.id)
    assert task.completed_at is None
    await work.mark_completed(session, task.id)
    first = task.completed_at
    assert first is not None
    await work.mark_completed(session, task.id)
    assert task.completed_at == first
    await work.reopen(session, task.id)
    assert (task.status, task.completed_at) == (TaskStatus.PENDING, None)


async def test_a_task_may_be_born_completed(session: AsyncSession, user: User) -> None:
    task = await work.create(session, TaskCreate(title="Done", status=TaskStatus.COMPLETED, user_id=user.id))
    assert task.completed_at is not None


async def test_a_cancelled_task_is_reopened_before_it_goes_on(session: AsyncSession, user: User) -> None:
    task = await work.create(session, TaskCreate(title="One", user_id=user.id))
    await work.cancel(session, task.id)
    with pytest.raises(TaskStateError, match="reopen it first"):
        await work.mark_completed(session, task.id)
    await work.reopen(session, task.id)
    assert (await work.update(session, task.id, TaskUpdate(status=TaskStatus.COMPLETED))).completed_at


async def test_a_bulk_update_keeps_completed_at_right(session: AsyncSession, user: User) -> None:
    creates = [TaskCreate(title=f"Task {n}", user_id=user.id) for n in range(3)]
    created = await work.create_many(session, creates)
    changed = await work.update_many(
        session,
        [
            TaskBulkUpdate(id=created[0].id, status=TaskStatus.COMPLETED),
            TaskBulkUpdate(id=created[1].id, title="Renamed"),
            TaskBulkUpdate(id=uuid.uuid4(), title="Nobody's"),
        ],
    )
    assert changed == 2
    assert [task.completed_at is not None for task in created] == [True, False, False]
    assert created[1].title == "Renamed"


async def test_tasks_belong_to_users_that_exist(session: AsyncSession, user: User) -> None:
    nobody = uuid.uuid4()
    task = await work.create(session, TaskCreate(title="One", user_id=user.id))
    with pytest.raises(EntityNotFoundError, match="User"):
        await work.create(session, TaskCreate(title="Two", user_id=nobody))
    with pytest.raises(EntityNotFoundError, match="User"):
        await work.create_many(session, [TaskCreate(title="Two", user_id=nobody)])
    with pytest.raises(EntityNotFoundError, match="User"):
        await work.assign(session, task.id, nobody)


async def test_assigning_moves_a_task(session: AsyncSession, user: User) -> None:
    task = await work.create(session, TaskCreate(title="One", user_id=user.id))
    other = await people.create_user(session, UserCreate(username="other"))
    assert (await work.assign(session, task.id, other.id)).user_id == other.id


async def test_deleted_tasks_are_listed_and_restored(session: AsyncSession, user: User) -> None:
    task = await work.create(session, TaskCreate(title="One", user_id=user.id))
    await work.delete(session, task.id)
    with pytest.raises(EntityNotFoundError):
        await work.get(session, task.id)
    assert await work.deleted(session) == [task]
    assert await work.restore(session, task.id) is task
    assert (await work.statistics(session)).total == 1
