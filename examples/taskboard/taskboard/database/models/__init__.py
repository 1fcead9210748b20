"""Tables, and the schemas of what goes into and comes out of them."""

from __future__ import annotations

from taskboard.database.models.base import Model, Patch, Schema
from taskboard.database.models.task import (
    Task,
    TaskBulkUpdate,
    TaskCreate,
    TaskRead,
    TaskStatistics,
    TaskStatus,
    TaskUpdate,
)
from taskboard.database.models.user import User, UserCreate, UserRead, UserTaskCount, UserUpdate

__all__ = [
    "Model",
    "Patch",
    "Schema",
    "Task",
    "TaskBulkUpdate",
    "TaskCreate",
    "TaskRead",
    "TaskStatistics",
    "TaskStatus",
    "TaskUpdate",
    "User",
    "UserCreate",
    "UserRead",
    "UserTaskCount",
    "UserUpdate",
]
