"""Ready-made abstract models: a time-ordered id, timestamps, and for tenants the composite key."""

from __future__ import annotations

import uuid  # noqa: TC003 - the mapper evaluates annotations
from datetime import datetime  # noqa: TC003 - likewise
from typing import Any

from sqlalchemy import Uuid
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.orm import Mapped, mapped_column

from dotmac.database.models._declarative import Base
from dotmac.database.models._identity import uuid7
from dotmac.database.models._tenant import TENANT_TYPE, TenantAwareMixin
from dotmac.database.models._types import UTCDateTime, utc_now

_Columns = dict[str, Any]  # BaseModel.dict hides the built-in inside the class


class BaseModel(Base):
    """``id`` (UUIDv7), ``created_at`` and ``updated_at`` (aware, set by the server).

    Values the server sets are fetched with the INSERT or UPDATE itself where the database has RETURNING.
    """

    __abstract__ = True
    __mapper_args__: _Columns = {"eager_defaults": True}  # noqa: RUF012 - typed as SQLAlchemy declares it

    id: Mapped[uuid.UUID] = mapped_column(Uuid(), primary_key=True, default=uuid7, sort_order=-1000)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime(), server_default=utc_now(), sort_order=990)
    updated_at: Mapped[datetime] = mapped_column(
        UTCDateTime(), server_default=utc_now(), onupdate=utc_now(), sort_order=991
    )

    def to_dict(self) -> _Columns:
        """The row's columns by attribute name; never triggers a load (a value not loaded is left out)."""
        state = sa_inspect(self)
        loaded = state.dict
        return {key: loaded[key] for key in state.mapper.columns.keys() if key in loaded}  # noqa: SIM118

    def dict(self) -> _Columns:
        """Same as `to_dict`."""
        return self.to_dict()

    def __repr__(self) -> str:
        """The key only: column values may be secrets."""
        identity = sa_inspect(self).identity
        return f"<{type(self).__name__} {'transient' if identity is None else '/'.join(map(str, identity))}>"


class TenantModel(TenantAwareMixin, BaseModel):
    """The base for new tenant tables: primary key ``(tenant_id, id)``.

    Every reference and uniqueness carries the tenant (`tenant_foreign_key`, `tenant_unique`), so a row cannot point into
    another tenant's data, and the table can be distributed by tenant (what Citus asks for).
    """

    __abstract__ = True

    tenant_id: Mapped[str] = mapped_column(TENANT_TYPE, primary_key=True, sort_order=-1001)
