"""Rows that are marked as deleted instead of removed."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import ColumnElement, true
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, mapped_column

from dotmac.database.models._types import UTCDateTime


class SoftDeleteMixin:
    """``is_active`` and ``deleted_at``: repositories hide rows whose ``deleted_at`` is set, unless asked for them.

    ``is_active`` is also free for switching a row off without deleting it.
    For uniqueness among the living see `live_unique`.
    """

    is_active: Mapped[bool] = mapped_column(default=True, server_default=true(), sort_order=900)
    deleted_at: Mapped[datetime | None] = mapped_column(
        UTCDateTime(), default=None, index=True, sort_order=901
    )

    def soft_delete(self) -> None:
        """Mark the row as deleted now; takes effect with the next flush."""
        self.is_active = False
        self.deleted_at = datetime.now(UTC)

    def restore(self) -> None:
        """Undo `soft_delete`; takes effect with the next flush."""
        self.is_active = True
        self.deleted_at = None

    @hybrid_property
    def is_deleted(self) -> bool:
        """True once the row is soft-deleted; usable in SQL too: ``select(User).where(User.is_deleted)``."""
        return self.deleted_at is not None

    @is_deleted.inplace.expression
    @classmethod
    def _is_deleted_sql(cls) -> ColumnElement[bool]:
        return cls.deleted_at.is_not(None)
