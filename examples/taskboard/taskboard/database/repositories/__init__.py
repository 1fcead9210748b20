"""Data access: every query of the application, and no business rules."""

from __future__ import annotations

from taskboard.database.repositories.base import BaseRepository
from taskboard.database.repositories.task import TaskRepository
from taskboard.database.repositories.user import UserRepository

__all__ = ["BaseRepository", "TaskRepository", "UserRepository"]
