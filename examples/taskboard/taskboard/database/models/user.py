"""Users: the table and its schemas."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from dotmac.database import tenant_unique
from pydantic import StringConstraints
from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from taskboard.database.models.base import Model, Patch, Schema

if TYPE_CHECKING:
    from taskboard.database.models.task import Task

USERNAME_CHARS = 64
Username = Annotated[str, StringConstraints(min_length=1, max_length=USERNAME_CHARS, strip_whitespace=True)]


class User(Model):
    """Somebody who has tasks. Deleting a user deletes the tasks."""

    __tablename__ = "users"
    __table_args__ = (tenant_unique("username"),)

    username: Mapped[str] = mapped_column(String(USERNAME_CHARS))
    tasks: Mapped[list[Task]] = relationship(
        "taskboard.database.models.task.Task",
        back_populates="user",
        cascade="all, delete-orphan",
        passive_deletes=True,  # the database deletes them
    )


class UserCreate(Schema):
    username: Username


class UserUpdate(Patch):
    username: Username | None = None


class UserRead(Schema):
    id: uuid.UUID
    username: str
    created_at: datetime
    updated_at: datetime


class UserTaskCount(Schema):
    """A user and how many tasks they have."""

    user: UserRead
    task_count: int
