"""What every repository can do: get, get_multi, create, update, delete, count, exists and the bulk operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from dotmac.database import QueryOptions
from dotmac.database.sqlmodel import CRUDRepository

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dotmac.database import QueryFilter, SortField
    from sqlalchemy.ext.asyncio import AsyncSession

M = TypeVar("M")


class BaseRepository(CRUDRepository[M]):
    """The rows of one model in the session's tenant. Stateless; flushes, never commits."""

    async def matching(
        self,
        session: AsyncSession,
        filters: Sequence[QueryFilter],
        *,
        sorts: Sequence[SortField] = (),
        limit: int | None = None,
    ) -> list[M]:
        """All matching rows, or the first ``limit``; one statement."""
        if limit is not None:
            return await self.get_multi(session, limit=limit, filters=filters, sorts=sorts)
        return await self.on(session).list(QueryOptions(filters=tuple(filters), sorts=tuple(sorts)))
