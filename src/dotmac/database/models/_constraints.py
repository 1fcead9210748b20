"""Constraints that carry the tenant, or hold among rows that are not deleted."""

from __future__ import annotations

from sqlalchemy import ForeignKeyConstraint, Index, UniqueConstraint, text


def tenant_unique(*columns: str, name: str | None = None) -> UniqueConstraint:
    """Unique within a tenant: ``UNIQUE (tenant_id, …)``."""
    return UniqueConstraint("tenant_id", *columns, name=name)


def tenant_foreign_key(
    column: str, target_table: str, *, ondelete: str | None = None, name: str | None = None
) -> ForeignKeyConstraint:
    """A reference to a `TenantModel`'s row of the same tenant: ``(tenant_id, column) → target(tenant_id, id)``.

    ``ondelete="SET NULL"`` is refused: it would null ``tenant_id`` too. Use ``"CASCADE"``, ``"RESTRICT"`` or nothing.
    """
    if ondelete is not None and ondelete.upper() == "SET NULL":
        raise ValueError("ondelete='SET NULL' would also null tenant_id; use 'CASCADE' or 'RESTRICT'.")
    return ForeignKeyConstraint(
        ["tenant_id", column],
        [f"{target_table}.tenant_id", f"{target_table}.id"],
        ondelete=ondelete,
        name=name,
    )


def live_unique(*columns: str, name: str) -> Index:
    """Unique among rows that are not soft-deleted: a partial unique index over ``deleted_at IS NULL``.

    PostgreSQL and SQLite. MySQL has no partial indexes: there the index holds over deleted rows too.
    """
    live = text("deleted_at IS NULL")
    return Index(name, *columns, unique=True, postgresql_where=live, sqlite_where=live)
