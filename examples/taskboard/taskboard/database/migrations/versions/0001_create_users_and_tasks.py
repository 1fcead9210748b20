"""Create users and tasks.

Revision ID: 0001
Revises: none, the first one
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from dotmac.database import UTCDateTime, utc_now

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | tuple[str, ...] | None = None
depends_on: str | tuple[str, ...] | None = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("tenant_id", sa.String(255), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("username", sa.String(64), nullable=False),
        *_timestamps(),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_users"),
        sa.UniqueConstraint("tenant_id", "username", name="uq_users_tenant_id_username"),
    )
    op.create_table(
        "tasks",
        sa.Column("tenant_id", sa.String(255), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("status", sa.String(16), nullable=False, server_default="PENDING"),
        sa.Column("completed_at", UTCDateTime()),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("deleted_at", UTCDateTime()),
        sa.Column("created_by", sa.String(255)),
        sa.Column("updated_by", sa.String(255)),
        sa.Column("request_id", sa.String(255)),
        *_timestamps(),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_tasks"),
        sa.CheckConstraint(
            "status IN ('PENDING', 'IN_PROGRESS', 'COMPLETED', 'CANCELLED')", name=op.f("ck_tasks_status")
        ),
        # A task cannot belong to another tenant's user: the reference carries the tenant.
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"],
            ["users.tenant_id", "users.id"],
            name="fk_tasks_tenant_id_user_id_users",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_tasks_tenant_id_user_id", "tasks", ["tenant_id", "user_id"])
    op.create_index("ix_tasks_tenant_id_status", "tasks", ["tenant_id", "status"])
    op.create_index("ix_tasks_tenant_id_created_at_id", "tasks", ["tenant_id", "created_at", "id"])
    op.create_index("ix_tasks_deleted_at", "tasks", ["deleted_at"])


def downgrade() -> None:
    op.drop_table("tasks")
    op.drop_table("users")


def _timestamps() -> tuple[sa.Column[object], sa.Column[object]]:
    return (
        sa.Column("created_at", UTCDateTime(), nullable=False, server_default=utc_now()),
        sa.Column("updated_at", UTCDateTime(), nullable=False, server_default=utc_now()),
    )
