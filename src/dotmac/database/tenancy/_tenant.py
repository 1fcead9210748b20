"""One tenant as the directory knows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from dotmac.database.tenancy._placement import IsolationMode, Placement
from dotmac.database.tenancy._quotas import Quotas

if TYPE_CHECKING:
    from datetime import datetime


class TenantStatus(StrEnum):
    """Whether a tenant may be served."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    INCOMPLETE = "incomplete"
    """Being made or dropped, or one of these was cut short; `drop` clears away what is left."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant as the directory knows it.

    Attributes:
        id: What rows, contexts and sessions call it; never changes.
        slug: What people and URLs call it; may change.
        mode: How its rows are kept apart.
        name: What it is called in full.
        connection: Name of the database its rows are on; None is the one the application works with.
        schema: Its schema, in mode SCHEMA.
        role: The database role that its transactions switch to, if it has one.
        status: Whether it may be served.
        quotas: What it may use.
        is_owned: True if the directory made its schema or database; only then does it ever drop it.
        created_at: When it was made.
        updated_at: When the directory last changed what it knows of it.
    """

    id: str
    slug: str
    mode: IsolationMode = IsolationMode.SHARED
    name: str | None = None
    connection: str | None = None
    schema: str | None = None
    role: str | None = None
    status: TenantStatus = TenantStatus.ACTIVE
    quotas: Quotas = field(default_factory=Quotas)
    is_owned: bool = True
    created_at: datetime | None = None
    updated_at: datetime | None = None

    def placement(self, shared_schema: str | None = None) -> Placement:
        """Where its rows live."""
        return Placement(
            tenant_id=self.id,
            mode=self.mode,
            connection=self.connection,
            schema=self.schema,
            shared_schema=shared_schema if self.schema is not None else None,
            role=self.role,
            statement_timeout=self.quotas.statement_timeout,
        )
