"""Rows that belong to a tenant."""

from __future__ import annotations

from sqlalchemy import String
from sqlalchemy.dialects.mysql import VARCHAR
from sqlalchemy.orm import Mapped, mapped_column

# MySQL's usual collations take "acme" and "Acme" for the same tenant.
TENANT_TYPE = String(255).with_variant(
    VARCHAR(255, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
)


class TenantAwareMixin:
    """``tenant_id``, indexed. Repositories fill it in, and see only the bound tenant's rows.

    For new tables prefer `TenantModel`, whose keys carry the tenant.
    A model that has a ``tenant_id`` column but is not divided by tenant says ``__tenant_scoped__ = False``.
    """

    tenant_id: Mapped[str] = mapped_column(TENANT_TYPE, index=True, sort_order=-900)
