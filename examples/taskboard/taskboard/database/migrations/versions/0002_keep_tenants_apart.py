"""Keep tenants apart at the server: row-level security on users and tasks.

Does nothing on databases that have no row-level security.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import dotmac.database.alembic  # noqa: F401 - gives op the operations below
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | tuple[str, ...] | None = None
depends_on: str | tuple[str, ...] | None = None


def upgrade() -> None:
    op.enable_tenant_security("users")
    op.enable_tenant_security("tasks")


def downgrade() -> None:
    op.disable_tenant_security("tasks")
    op.disable_tenant_security("users")
