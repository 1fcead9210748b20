"""Is the database well? Checks that take no slot from a full pool, and end in time whatever the server does."""

from __future__ import annotations

from dotmac.database.health._checker import DatabaseHealthChecker
from dotmac.database.health._result import HealthCheckResult, HealthStatus

__all__ = ["DatabaseHealthChecker", "HealthCheckResult", "HealthStatus"]
