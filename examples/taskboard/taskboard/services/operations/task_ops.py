"""Rules for tasks: ``completed_at`` follows the status, and a cancelled task is reopened before it goes on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dotmac.database import (
    CountMode,
    FilterOperator,
    PaginationParams,
    QueryFilter,
    QueryOptions,
    SortField,
    SortOrder,
)
from dotmac.database.errors import EntityNotFoundError, ValidationError

from taskboard.database.models import Task, TaskStatistics, TaskStatus, User
from taskboard.database.repositories import TaskRepository, UserRepository

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from taskboard.database.models import TaskBulkUpdate, TaskCreate, TaskUpdate


class TaskStateError(ValidationError):
    """The task's status does not allow what was asked."""

    def __init__(self, status: TaskStatus, wanted: TaskStatus) -> None:
        super().__init__(
            f"A task that is {status.value} cannot become {wanted.value}; reopen it first.",
            model=Task.__name__,
            field="status",
        )


class TaskService:
    """What can be done with tasks."""

    def __init__(self, tasks: TaskRepository | None = None, users: UserRepository | None = None) -> None:
        self.tasks = tasks or TaskRepository()
        self.users = users or UserRepository()

    async def create(self, session: AsyncSession, task_create: TaskCreate) -> Task:
        """A new task.

        Raises:
            EntityNotFoundError: There is no such user.
        """
        await self._require_users(session, {task_create.user_id})
        return await self.tasks.create(session, new_row(task_create))

    async def create_many(self, session: AsyncSession, task_creates: Sequence[TaskCreate]) -> list[Task]:
        """New tasks in the order given: all of them, or none.

        Raises:
            EntityNotFoundError: One of the users does not exist.
        """
        await self._require_users(session, {item.user_id for item in task_creates})
        return await self.tasks.bulk_create(session, map(new_row, task_creates))

    async def get(self, session: AsyncSession, task_id: uuid.UUID) -> Task:
        """The task.

        Raises:
            EntityNotFoundError: There is no such task, or it is deleted.
        """
        task = await self.tasks.get(session, task_id)
        if task is None:
            raise EntityNotFoundError(Task.__name__, task_id)
        return task

    async def update(self, session: AsyncSession, task_id: uuid.UUID, task_update: TaskUpdate) -> Task:
        """The task with the fields that were set changed.

        Raises:
            EntityNotFoundError: There is no such task, or no such user.
            TaskStateError: The status cannot change so.
        """
        task = await self.get(session, task_id)
        return await self._change(session, task, task_update.model_dump(exclude_unset=True))

    async def update_many(self, session: AsyncSession, updates: Sequence[TaskBulkUpdate]) -> int:
        """Change many tasks, each to its own values; how many there were. All of them, or none.

        Raises:
            EntityNotFoundError: One of the new users does not exist.
            TaskStateError: The status of one task cannot change so.
            ValidationError: A task occurs twice.
        """
        ids = QueryFilter(field="id", operator=FilterOperator.IN, value=[item.id for item in updates])
        known = {task.id: task for task in await self.tasks.matching(session, [ids])}
        changes = [item.model_dump(exclude_unset=True) for item in updates]
        await self._require_users(session, {change["user_id"] for change in changes if "user_id" in change})
        return await self.tasks.bulk_update(
            session,
            [
                change | _completion(known[change["id"]], change)
                for change in changes
                if change["id"] in known
            ],
        )

    async def mark_in_progress(self, session: AsyncSession, task_id: uuid.UUID) -> Task:
        """The task, begun. Raises as `update`."""
        return await self._move(session, task_id, TaskStatus.IN_PROGRESS)

    async def mark_completed(self, session: AsyncSession, task_id: uuid.UUID) -> Task:
        """The task, completed now; one that was completed before keeps its time. Raises as `update`."""
        return await self._move(session, task_id, TaskStatus.COMPLETED)

    async def cancel(self, session: AsyncSession, task_id: uuid.UUID) -> Task:
        """The task, cancelled. Raises as `update`."""
        return await self._move(session, task_id, TaskStatus.CANCELLED)

    async def reopen(self, session: AsyncSession, task_id: uuid.UUID) -> Task:
        """The task, pending again. Raises as `update`."""
        return await self._move(session, task_id, TaskStatus.PENDING)

    async def assign(self, session: AsyncSession, task_id: uuid.UUID, user_id: uuid.UUID) -> Task:
        """The task, now of another user. Raises as `update`."""
        return await self._change(session, await self.get(session, task_id), {"user_id": user_id})

    async def delete(self, session: AsyncSession, task_id: uuid.UUID) -> None:
        """Soft-delete the task.

        Raises:
            EntityNotFoundError: There is no such task.
        """
        if not await self.tasks.delete(session, task_id):
            raise EntityNotFoundError(Task.__name__, task_id)

    async def delete_many(self, session: AsyncSession, task_ids: Iterable[uuid.UUID]) -> int:
        """Soft-delete the tasks; how many there were."""
        return await self.tasks.bulk_delete(session, task_ids)

    async def restore(self, session: AsyncSession, task_id: uuid.UUID) -> Task:
        """The task, no longer deleted.

        Raises:
            EntityNotFoundError: There never was such a task.
        """
        return await self.tasks.on(session).restore(task_id)

    async def deleted(self, session: AsyncSession, limit: int = 100) -> list[Task]:
        """Deleted tasks, the last one first."""
        return await self.tasks.on(session).list(
            QueryOptions(
                include_deleted=True,
                filters=(QueryFilter(field="deleted_at", operator=FilterOperator.IS_NOT_NULL),),
                sorts=(SortField(field="deleted_at", order=SortOrder.DESC),),
                pagination=PaginationParams(per_page=limit, count=CountMode.NONE),
            )
        )

    async def statistics(self, session: AsyncSession) -> TaskStatistics:
        """How many tasks there are in each status."""
        by_status = await self.tasks.count_by_status(session)
        return TaskStatistics(total=sum(by_status.values()), by_status=by_status)

    async def _move(self, session: AsyncSession, task_id: uuid.UUID, status: TaskStatus) -> Task:
        return await self._change(session, await self.get(session, task_id), {"status": status})

    async def _change(self, session: AsyncSession, task: Task, change: dict[str, Any]) -> Task:
        if "user_id" in change:
            await self._require_users(session, {change["user_id"]})
        return await self.tasks.update(session, task, change | _completion(task, change))

    async def _require_users(self, session: AsyncSession, user_ids: set[uuid.UUID]) -> None:
        wanted = QueryFilter(field="id", operator=FilterOperator.IN, value=list(user_ids))
        missing = user_ids - {user.id for user in await self.users.matching(session, [wanted])}
        if missing:
            raise EntityNotFoundError(User.__name__, min(missing))


def new_row(task_create: TaskCreate) -> dict[str, Any]:
    """The fields of a new task, ``completed_at`` included."""
    fields = task_create.model_dump(exclude_unset=True)
    if task_create.status is TaskStatus.COMPLETED:
        fields["completed_at"] = datetime.now(UTC)
    return fields


def _completion(task: Task, change: dict[str, Any]) -> dict[str, Any]:
    """What a change of status does to ``completed_at``."""
    wanted = change.get("status", task.status)
    if wanted is task.status:
        return {}
    if task.status is TaskStatus.CANCELLED and wanted is not TaskStatus.PENDING:
        raise TaskStateError(task.status, wanted)
    return {"completed_at": datetime.now(UTC) if wanted is TaskStatus.COMPLETED else None}
