"""The directory's own table: ``admin.tenants``, one row a tenant, and the statements on it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Computed,
    Index,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    select,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB

from dotmac.database.models import NAMING_CONVENTION, UTCDateTime, utc_now
from dotmac.database.models._tenant import TENANT_TYPE
from dotmac.database.tenancy._placement import IsolationMode
from dotmac.database.tenancy._quotas import Quotas
from dotmac.database.tenancy._tenant import Tenant, TenantStatus

if TYPE_CHECKING:
    from sqlalchemy import Row, Select
    from sqlalchemy.engine import Dialect

_NAME_CHARS: Final = 63
_STATUS_SQL: Final = (
    "CASE WHEN NOT is_complete THEN 'incomplete' WHEN is_active THEN 'active' ELSE 'suspended' END"
)


def tenants_table(dialect: Dialect, admin_schema: str) -> Table:
    """The table as ``dialect`` has it: in a schema on PostgreSQL, elsewhere with the schema's name as a prefix."""
    return _table(admin_schema, has_schemas=dialect.name == "postgresql")


@lru_cache(maxsize=64)
def _table(admin_schema: str, *, has_schemas: bool) -> Table:
    plain = String(_NAME_CHARS)
    table = Table(
        "tenants" if has_schemas else f"{admin_schema}_tenants",
        MetaData(naming_convention=NAMING_CONVENTION),
        Column("id", TENANT_TYPE, primary_key=True),
        # Two ids that differ in case alone would be one tenant to a person, a file system or a collation.
        Column("id_folded", String(255), Computed("lower(id)", persisted=True), unique=True),
        Column("slug", plain, nullable=False, unique=True),
        Column("name", Text),
        Column("mode", String(16), nullable=False),
        Column("connection", String(255)),
        Column("schema", plain),
        Column("role", plain),
        Column("quotas", JSON().with_variant(JSONB(), "postgresql"), nullable=False),
        Column("is_active", Boolean, nullable=False, server_default=true()),
        Column("is_complete", Boolean, nullable=False, server_default=true()),
        Column("is_owned", Boolean, nullable=False, server_default=false()),
        Column("status", String(16), Computed(_STATUS_SQL, persisted=True)),
        Column("created_at", UTCDateTime(), nullable=False, server_default=utc_now()),
        Column("updated_at", UTCDateTime(), nullable=False, server_default=utc_now()),
        UniqueConstraint("connection", "schema"),
        schema=admin_schema if has_schemas else None,
        info={"tenant_scoped": False},
    )
    here = text("connection IS NULL")  # NULLs are distinct to the constraint above
    if has_schemas:
        Index("uq_tenants_schema_here", table.c.schema, unique=True, postgresql_where=here)
    return table


def select_tenants(table: Table) -> Select[Any]:
    """Whole rows, for `tenant_of_row`."""
    return select(*(column for column in table.columns if column.name not in {"id_folded", "is_complete"}))


def tenant_of_row(row: Row[Any]) -> Tenant:
    """A row of `select_tenants` as a value."""
    return Tenant(
        id=row.id,
        slug=row.slug,
        name=row.name,
        mode=IsolationMode(row.mode),
        connection=row.connection,
        schema=row.schema,
        role=row.role,
        status=TenantStatus(row.status),
        quotas=Quotas.from_json(row.quotas),
        is_owned=bool(row.is_owned),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
