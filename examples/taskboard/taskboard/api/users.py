"""Routes of users."""

from __future__ import annotations

import uuid
from typing import Annotated

from dotmac.database import QueryOptions, SortField
from dotmac.database.fastapi import query_options
from fastapi import APIRouter, Depends, Query

from taskboard.api.common import PROBLEMS, CursorPage, Page, ReadSession, TenantRequired, WriteSession
from taskboard.database.models import (
    TaskRead,
    TaskStatus,
    User,
    UserCreate,
    UserRead,
    UserTaskCount,
    UserUpdate,
)
from taskboard.services.operations import TaskService, UserService

router = APIRouter(prefix="/users", tags=["users"], dependencies=[TenantRequired], responses=PROBLEMS)
service = UserService()
tasks = TaskService().tasks

UserOptions = Annotated[
    QueryOptions,
    Depends(
        query_options(
            {"username": ["eq", "in", "icontains", "starts_with"], "created_at": ["gte", "lt"]},
            ["username", "created_at"],
            model=User,
            max_per_page=1000,
            default_sort=[SortField(field="username")],
        )
    ),
]


@router.post("", status_code=201)
async def create_user(session: WriteSession, user_create: UserCreate) -> UserRead:
    return UserRead.model_validate(await service.create_user(session, user_create))


@router.get("")
async def list_users(session: ReadSession, options: UserOptions) -> Page[UserRead] | CursorPage[UserRead]:
    """By number with ``page`` and ``per_page``, by cursor with ``limit`` and ``cursor``."""
    users = service.users.on(session)
    if options.cursor_pagination is not None:
        return CursorPage[UserRead].model_validate(await users.cursor_paginate(options))
    return Page[UserRead].model_validate(await users.list_paginated(options))


@router.get("/task-counts")
async def count_tasks_of_users(
    session: ReadSession, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> list[UserTaskCount]:
    found = await service.users.get_users_with_task_counts(session, limit)
    return [UserTaskCount(user=UserRead.model_validate(user), task_count=count) for user, count in found]


@router.get("/{user_id}")
async def get_user(session: ReadSession, user_id: uuid.UUID) -> UserRead:
    return UserRead.model_validate(await service.get(session, user_id))


@router.get("/{user_id}/tasks")
async def list_tasks_of_user(
    session: ReadSession,
    user_id: uuid.UUID,
    status: TaskStatus | None = None,
    skip: Annotated[int, Query(ge=0, le=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[TaskRead]:
    await service.get(session, user_id)
    filters = {"user_id": user_id} | ({"status": status} if status else {})
    found = await tasks.get_multi(session, skip, limit, filters)
    return [TaskRead.model_validate(task) for task in found]


@router.patch("/{user_id}")
async def rename_user(session: WriteSession, user_id: uuid.UUID, user_update: UserUpdate) -> UserRead:
    return UserRead.model_validate(await service.rename(session, user_id, user_update))


@router.delete("/{user_id}", status_code=204)
async def delete_user(session: WriteSession, user_id: uuid.UUID) -> None:
    """Remove the user, and with it every task of theirs."""
    await service.delete_user(session, user_id)
