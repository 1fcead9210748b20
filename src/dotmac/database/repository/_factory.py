"""The right repository for a model: with a tenant where it has one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from dotmac.database.repository._async import AsyncRepository, AsyncTenantRepository
from dotmac.database.repository._sync import BaseRepository, BaseTenantRepository

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from dotmac.database.caching import EntityCache, SmartCache

M = TypeVar("M")


def create_repository(
    db: Session, model_class: type[M], tenant_id: object | None = None
) -> BaseRepository[M]:
    """A repository for ``model_class``: a `BaseTenantRepository` if a tenant is given.

    Raises:
        TypeError: ``model_class`` is not a mapped class, or a tenant is given and its rows belong to none.
        MissingTenantError: The model belongs to tenants and none is known.
    """
    kind: type[BaseRepository[Any]] = BaseTenantRepository if tenant_id is not None else BaseRepository
    return kind(db, model_class, tenant_id)


def create_async_repository(
    db: AsyncSession,
    model_class: type[M],
    tenant_id: object | None = None,
    *,
    cache: SmartCache | EntityCache | None = None,
) -> AsyncRepository[M]:
    """Same as `create_repository`, over an ``AsyncSession``; ``cache`` as for `AsyncRepository`."""
    kind: type[AsyncRepository[Any]] = AsyncTenantRepository if tenant_id is not None else AsyncRepository
    return kind(db, model_class, tenant_id, cache=cache)
