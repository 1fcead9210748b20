"""What Alembic runs: every command, online and ``--sql``, on every driver."""

from __future__ import annotations

import os

from dotmac.database.alembic import run_migrations

from taskboard.database.models import Model
from taskboard.settings import TaskboardDatabaseSettings

# MIGRATION_DATABASE_URL, where it is set, names the role that owns the tables; the application's may not alter them.
owned_by_another_role = "MIGRATION_DATABASE_URL" in os.environ

run_migrations(
    Model.metadata,
    settings=None if owned_by_another_role else TaskboardDatabaseSettings(),
    row_level_security=True,
)
