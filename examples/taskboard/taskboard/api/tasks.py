"""Routes of tasks."""

from __future__ import annotations

import uuid
from typing import Annotated

from dotmac.database import QueryOptions, SortField
from dotmac.database.fastapi import query_options
from fastapi import APIRouter, Body, Depends, Query

from taskboard.api.common import (
    MAX_BULK_ROWS,
    PROBLEMS,
    Changed,
    CursorPage,
    Page,
    ReadSession,
    TenantRequired,
    WriteSession,
)
from taskboard.database.models import Task, TaskBulkUpdate, TaskCreate, TaskRead, TaskStatistics, TaskUpdate
from taskboard.services.operations import TaskService

router = APIRouter(prefix="/tasks", tags=["tasks"], dependencies=[TenantRequired], responses=PROBLEMS)
service = TaskService()

TaskOptions = Annotated[
    QueryOptions,
    Depends(
        query_options(
            {
                "status": ["eq", "ne", "in"],
                "user_id": ["eq", "in"],
                "user.username": ["eq"],
                "title": ["eq", "icontains", "starts_with"],
                "created_at": ["gte", "lt"],
                "completed_at": ["gte", "lt", "is_null"],
            },
            ["created_at", "updated_at", "completed_at", "title", "status"],
            model=Task,
            max_per_page=1000,
            default_sort=[SortField(field="created_at")],
        )
    ),
]
TaskIds = Annotated[list[uuid.UUID], Body(min_length=1, max_length=MAX_BULK_ROWS)]
Limit = Annotated[int, Query(ge=1, le=1000)]


@router.post("", status_code=201)
async def create_task(session: WriteSession, task_create: TaskCreate) -> TaskRead:
    return TaskRead.model_validate(await service.create(session, task_create))


@router.get("")
async def list_tasks(session: ReadSession, options: TaskOptions) -> Page[TaskRead] | CursorPage[TaskRead]:
    """By number with ``page`` and ``per_page``, by cursor with ``limit`` and ``cursor``."""
    tasks = service.tasks.on(session)
    if options.cursor_pagination is not None:
        return CursorPage[TaskRead].model_validate(await tasks.cursor_paginate(options))
    return Page[TaskRead].model_validate(await tasks.list_paginated(options))


@router.get("/search")
async def search_tasks(
    session: ReadSession, q: Annotated[str, Query(min_length=1, max_length=200)], limit: Limit = 100
) -> list[TaskRead]:
    """Tasks whose title holds the text."""
    return [TaskRead.model_validate(task) for task in await service.tasks.search_by_title(session, q, limit)]


@router.get("/statistics")
async def task_statistics(session: ReadSession) -> TaskStatistics:
    return await service.statistics(session)


@router.get("/deleted")
async def list_deleted_tasks(session: ReadSession, limit: Limit = 100) -> list[TaskRead]:
    return [TaskRead.model_validate(task) for task in await service.deleted(session, limit)]


@router.post("/bulk", status_code=201)
async def create_tasks(
    session: WriteSession,
    task_creates: Annotated[list[TaskCreate], Body(min_length=1, max_length=MAX_BULK_ROWS)],
) -> list[TaskRead]:
    """All of them, or none."""
    return [TaskRead.model_validate(task) for task in await service.create_many(session, task_creates)]


@router.patch("/bulk")
async def update_tasks(
    session: WriteSession,
    updates: Annotated[list[TaskBulkUpdate], Body(min_length=1, max_length=MAX_BULK_ROWS)],
) -> Changed:
    """Each task to its own values; ids that are not there are passed over."""
    return Changed(changed=await service.update_many(session, updates))


@router.post("/bulk-delete")
async def delete_tasks(session: WriteSession, task_ids: TaskIds) -> Changed:
    """Soft-delete; ids that are not there are passed over."""
    return Changed(changed=await service.delete_many(session, task_ids))


@router.get("/{task_id}")
async def get_task(session: ReadSession, task_id: uuid.UUID) -> TaskRead:
    return TaskRead.model_validate(await service.get(session, task_id))


@router.patch("/{task_id}")
async def update_task(session: WriteSession, task_id: uuid.UUID, task_update: TaskUpdate) -> TaskRead:
    return TaskRead.model_validate(await service.update(session, task_id, task_update))


@router.delete("/{task_id}", status_code=204)
async def delete_task(session: WriteSession, task_id: uuid.UUID) -> None:
    """Soft-delete: the task can be restored."""
    await service.delete(session, task_id)


@router.post("/{task_id}/restore")
async def restore_task(session: WriteSession, task_id: uuid.UUID) -> TaskRead:
    return TaskRead.model_validate(await service.restore(session, task_id))


@router.post("/{task_id}/start")
async def start_task(session: WriteSession, task_id: uuid.UUID) -> TaskRead:
    return TaskRead.model_validate(await service.mark_in_progress(session, task_id))


@router.post("/{task_id}/complete")
async def complete_task(session: WriteSession, task_id: uuid.UUID) -> TaskRead:
    return TaskRead.model_validate(await service.mark_completed(session, task_id))


@router.post("/{task_id}/cancel")
async def cancel_task(session: WriteSession, task_id: uuid.UUID) -> TaskRead:
    return TaskRead.model_validate(await service.cancel(session, task_id))


@router.post("/{task_id}/reopen")
async def reopen_task(session: WriteSession, task_id: uuid.UUID) -> TaskRead:
    return TaskRead.model_validate(await service.reopen(session, task_id))


@router.post("/{task_id}/assign")
async def assign_task(
    session: WriteSession, task_id: uuid.UUID, user_id: Annotated[uuid.UUID, Body(embed=True)]
) -> TaskRead:
    return TaskRead.model_validate(await service.assign(session, task_id, user_id))
