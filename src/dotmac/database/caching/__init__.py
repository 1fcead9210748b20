"""Caching on Redis: values that are never stale after an invalidation, loaded once for everybody, apart for each tenant."""

from __future__ import annotations

from dotmac.database.caching._cache import SmartCache
from dotmac.database.caching._client import get_redis_client, get_redis_pool
from dotmac.database.caching._entities import EntityCache
from dotmac.database.caching._entity_reading import EntityReader
from dotmac.database.caching._freshness import CachePolicy
from dotmac.database.caching._link import close_redis_client
from dotmac.database.caching._space import MISSING, LoadToken
from dotmac.database.caching._warming import WarmReport

__all__ = [
    "MISSING",
    "CachePolicy",
    "EntityCache",
    "EntityReader",
    "LoadToken",
    "SmartCache",
    "WarmReport",
    "close_redis_client",
    "get_redis_client",
    "get_redis_pool",
]
