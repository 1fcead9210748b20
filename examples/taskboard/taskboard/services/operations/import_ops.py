"""Import of many tasks: whole batches, each in one transaction, and every refused row accounted for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dotmac.database import FilterOperator, QueryFilter, QueryOptions
from dotmac.database.errors import ConstraintViolationError, ValidationError

from taskboard.database.models import TaskStatus
from taskboard.database.repositories import TaskRepository, UserRepository
from taskboard.services.operations.import_rows import Row, RowProblem

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ["ImportReport", "RowProblem", "TaskImporter"]

BATCH_ROWS = 1000
MAX_BATCH_ROWS = 10_000


@dataclass(slots=True)
class ImportReport:
    """How far an import got. True at any moment, also after it was interrupted.

    Attributes:
        imported: Rows that are committed.
        problems: Rows that were left out, and why.
        resume_from: The line after the last committed batch.
        committing: First and last line of a batch whose COMMIT has not been answered.
        finished: The end of the file was reached.
    """

    resume_from: int = 1
    imported: int = 0
    problems: list[RowProblem] = field(default_factory=list)
    committing: tuple[int, int] | None = None
    finished: bool = False

    @property
    def refused(self) -> int:
        """Rows that were left out; a row may have several problems."""
        return len({problem.line for problem in self.problems})


class TaskImporter:
    """Puts rows into the tenant that the sessions belong to.

    Args:
        sessions: Gives a session that commits at the end of its block.
        batch_rows: Rows of one transaction, 1 to 10,000.
        create_users: Create users that do not exist, instead of refusing their rows.
    """

    def __init__(
        self,
        sessions: Callable[[], AbstractAsyncContextManager[AsyncSession]],
        *,
        batch_rows: int = BATCH_ROWS,
        create_users: bool = False,
    ) -> None:
        if not 1 <= batch_rows <= MAX_BATCH_ROWS:
            raise ValueError(f"batch_rows is 1 to {MAX_BATCH_ROWS}, not {batch_rows}.")
        self._sessions = sessions
        self._batch_rows = batch_rows
        self._create_users = create_users
        self._tasks, self._users = TaskRepository(), UserRepository()

    async def run(
        self,
        rows: Iterable[Row | RowProblem],
        report: ImportReport | None = None,
        on_batch: Callable[[ImportReport], object] = lambda _: None,
    ) -> ImportReport:
        """Import ``rows`` from line ``report.resume_from`` on. ``report`` is kept up to date and returned."""
        report, batch = report or ImportReport(), list[Row]()
        start = report.resume_from
        for item in rows:
            if item.line < start:
                continue
            if isinstance(item, RowProblem):
                report.problems.append(item)
                continue
            batch.append(item)
            if len(batch) == self._batch_rows:
                await self._land_undisturbed(batch, report)
                on_batch(report)
                batch = []
        if batch:
            await self._land_undisturbed(batch, report)
        report.finished = True
        on_batch(report)
        return report

    async def _land_undisturbed(self, batch: list[Row], report: ImportReport) -> None:
        """A batch that has begun is finished before a cancellation counts: its outcome is then known."""
        landing = asyncio.ensure_future(self._land(batch, report))
        try:
            await asyncio.shield(landing)
        except asyncio.CancelledError:
            await landing
            raise

    async def _land(self, batch: list[Row], report: ImportReport) -> None:
        async with self._sessions() as session:
            landed, problems = await self._write(session, batch)
            report.committing = (batch[0].line, batch[-1].last_line)
        report.committing = None
        report.imported += landed
        report.problems += problems
        report.resume_from = batch[-1].last_line + 1

    async def _write(self, session: AsyncSession, batch: list[Row]) -> tuple[int, list[RowProblem]]:
        users = await self._user_ids(session, {row.task.username for row in batch})
        taken = await self._taken_ids(session, [row.task.id for row in batch if row.task.id is not None])
        good, problems = list[Row](), list[RowProblem]()
        for row in batch:
            if row.task.username not in users:
                problems.append(RowProblem(row.line, "username", "is no user of this tenant"))
            elif row.task.id in taken:
                problems.append(RowProblem(row.line, "id", "exists already"))
            else:
                good.append(row)
        refused = await self._insert(session, good, users) if good else []
        return len(good) - len(refused), sorted(problems + refused, key=lambda problem: problem.line)

    async def _user_ids(self, session: AsyncSession, names: set[str]) -> dict[str, uuid.UUID]:
        known = await self._users.ids_by_username(session, names)
        missing = sorted(names.difference(known))
        if self._create_users and missing:
            created = await self._users.bulk_create(session, [{"username": name} for name in missing])
            known |= {user.username: user.id for user in created}
        return known

    async def _taken_ids(self, session: AsyncSession, ids: list[uuid.UUID]) -> set[uuid.UUID]:
        if not ids:
            return set()
        among = QueryFilter(field="id", operator=FilterOperator.IN, value=ids)
        # Deleted tasks keep their ids.
        found = await self._tasks.on(session).list(QueryOptions(filters=(among,), include_deleted=True))
        return {task.id for task in found}

    async def _insert(
        self, session: AsyncSession, rows: list[Row], users: dict[str, uuid.UUID]
    ) -> list[RowProblem]:
        """Insert the rows; those the database refuses are found by halving."""
        try:
            async with session.begin_nested():
                items = [_new_task(row, users[row.task.username]) for row in rows]
                await self._tasks.on(session).bulk_create(items, returning=False)
        except (ConstraintViolationError, ValidationError) as error:
            if len(rows) == 1:
                return [
                    RowProblem(rows[0].line, getattr(error, "field", None), "was refused by the database")
                ]
            middle = len(rows) // 2
            left = await self._insert(session, rows[:middle], users)
            return left + await self._insert(session, rows[middle:], users)
        return []


def _new_task(row: Row, user_id: uuid.UUID) -> dict[str, Any]:
    fields = row.task.model_dump(exclude={"username"}, exclude_none=True) | {"user_id": user_id}
    if row.task.status is TaskStatus.COMPLETED:
        fields["completed_at"] = datetime.now(UTC)
    return fields
