"""Queries for tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dotmac.database import FilterOperator, QueryFilter, SortField
from sqlalchemy import func, select

from taskboard.database.models import Task, TaskStatus
from taskboard.database.repositories.base import BaseRepository

if TYPE_CHECKING:
    import uuid

    from sqlalchemy.ext.asyncio import AsyncSession

BY_AGE = (SortField(field="created_at"),)


class TaskRepository(BaseRepository[Task]):
    """The tasks of the session's tenant that are not deleted, oldest first."""

    def __init__(self) -> None:
        super().__init__(Task)

    async def get_by_user(self, session: AsyncSession, user_id: uuid.UUID) -> list[Task]:
        """All tasks of a user."""
        return await self.matching(session, [_is("user_id", user_id)], sorts=BY_AGE)

    async def get_by_status(
        self, session: AsyncSession, status: TaskStatus, limit: int | None = None
    ) -> list[Task]:
        """All tasks with that status, or the first ``limit``."""
        return await self.matching(session, [_is("status", status)], sorts=BY_AGE, limit=limit)

    async def get_completed_tasks(self, session: AsyncSession, limit: int | None = None) -> list[Task]:
        """All completed tasks, or the first ``limit``."""
        return await self.get_by_status(session, TaskStatus.COMPLETED, limit)

    async def get_pending_tasks(self, session: AsyncSession, limit: int | None = None) -> list[Task]:
        """All pending tasks, or the first ``limit``."""
        return await self.get_by_status(session, TaskStatus.PENDING, limit)

    async def get_in_progress_tasks(self, session: AsyncSession, limit: int | None = None) -> list[Task]:
        """All tasks in progress, or the first ``limit``."""
        return await self.get_by_status(session, TaskStatus.IN_PROGRESS, limit)

    async def search_by_title(
        self, session: AsyncSession, search_term: str, limit: int | None = 100
    ) -> list[Task]:
        """Tasks whose title holds the text, in any case; ``%`` and ``_`` are ordinary characters."""
        holds = QueryFilter(field="title", operator=FilterOperator.ICONTAINS, value=search_term)
        return await self.matching(session, [holds], sorts=BY_AGE, limit=limit)

    async def get_user_tasks_by_status(
        self, session: AsyncSession, user_id: uuid.UUID, status: TaskStatus
    ) -> list[Task]:
        """All tasks of a user with that status."""
        return await self.matching(session, [_is("user_id", user_id), _is("status", status)], sorts=BY_AGE)

    async def count_by_status(self, session: AsyncSession) -> dict[TaskStatus, int]:
        """How many tasks have each status, zero included; one statement."""
        counts = await session.execute(
            select(Task.status, func.count())
            .where(Task.tenant_id == self.on(session).tenant_id, Task.deleted_at.is_(None))
            .group_by(Task.status)
        )
        return dict.fromkeys(TaskStatus, 0) | {row[0]: row[1] for row in counts}


def _is(field: str, value: object) -> QueryFilter:
    return QueryFilter(field=field, value=value)
