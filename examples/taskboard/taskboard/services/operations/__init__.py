"""What the application does with users and tasks."""

from __future__ import annotations

from taskboard.services.operations.import_ops import ImportReport, RowProblem, TaskImporter
from taskboard.services.operations.task_ops import TaskService, TaskStateError
from taskboard.services.operations.user_ops import UserService

__all__ = ["ImportReport", "RowProblem", "TaskImporter", "TaskService", "TaskStateError", "UserService"]
