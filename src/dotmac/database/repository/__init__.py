"""Rows of a model as a collection: sync and async repositories over one set of operations."""

from dotmac.database.repository._async import AsyncRepository, AsyncTenantRepository
from dotmac.database.repository._factory import create_async_repository, create_repository
from dotmac.database.repository._paginators import DatabasePaginator, PaginationHelper, PerformancePaginator
from dotmac.database.repository._sync import BaseRepository, BaseTenantRepository

__all__ = [
    "AsyncRepository",
    "AsyncTenantRepository",
    "BaseRepository",
    "BaseTenantRepository",
    "DatabasePaginator",
    "PaginationHelper",
    "PerformancePaginator",
    "create_async_repository",
    "create_repository",
]
