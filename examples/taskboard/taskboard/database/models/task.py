"""Tasks: the table and its schemas."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar

from dotmac.database import AuditMixin, SoftDeleteMixin, UTCDateTime, tenant_foreign_key
from pydantic import Field, StringConstraints
from sqlalchemy import Enum, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from taskboard.database.models.base import Model, Patch, Schema
from taskboard.database.models.user import User

TITLE_CHARS = 200
DESCRIPTION_CHARS = 10_000
Title = Annotated[str, StringConstraints(min_length=1, max_length=TITLE_CHARS, strip_whitespace=True)]
Description = Annotated[str, StringConstraints(max_length=DESCRIPTION_CHARS)]


class TaskStatus(StrEnum):
    """Where a task stands."""

    PENDING = "PENDING"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"


class Task(SoftDeleteMixin, AuditMixin, Model):
    """Something to do, and who does it."""

    __tablename__ = "tasks"
    __table_args__ = (
        tenant_foreign_key("user_id", "users", ondelete="CASCADE"),
        Index(None, "tenant_id", "user_id"),
        Index(None, "tenant_id", "status"),
        Index(None, "tenant_id", "created_at", "id"),
    )

    title: Mapped[str] = mapped_column(String(TITLE_CHARS))
    description: Mapped[str | None] = mapped_column(Text)
    # Text with a CHECK on every database: a new status is one constraint, not an ALTER TYPE.
    status: Mapped[TaskStatus] = mapped_column(
        Enum(TaskStatus, native_enum=False, create_constraint=True, name="status", length=16),
        default=TaskStatus.PENDING,
        server_default=TaskStatus.PENDING.value,
    )
    completed_at: Mapped[datetime | None] = mapped_column(UTCDateTime())
    user_id: Mapped[uuid.UUID]

    user: Mapped[User] = relationship(User, back_populates="tasks")


class TaskCreate(Schema):
    title: Title
    description: Description | None = None
    status: TaskStatus = TaskStatus.PENDING
    user_id: uuid.UUID


class TaskUpdate(Patch):
    nullable: ClassVar[frozenset[str]] = frozenset({"description"})

    title: Title | None = None
    description: Description | None = None
    status: TaskStatus | None = None
    user_id: uuid.UUID | None = None


class TaskBulkUpdate(TaskUpdate):
    """One row of a bulk update: which task, and what changes."""

    id: uuid.UUID


class TaskRead(Schema):
    id: uuid.UUID
    title: str
    description: str | None
    status: TaskStatus
    user_id: uuid.UUID
    completed_at: datetime | None
    deleted_at: datetime | None
    created_by: str | None
    updated_by: str | None
    created_at: datetime
    updated_at: datetime


class TaskStatistics(Schema):
    """How many tasks there are in each status."""

    total: int = Field(ge=0)
    by_status: dict[TaskStatus, int]
