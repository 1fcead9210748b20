"""What a process remembers of the directory, and for how long it may be out of date.

No entry is used longer than `stale_for` after it was asked for: a change made by another process is seen everywhere
within that time. Pure: it never waits and never asks.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from dotmac.database.tenancy._placement import Placement
    from dotmac.database.tenancy._tenant import Tenant


class Known(NamedTuple):
    """A tenant as it was at some time."""

    tenant: Tenant
    placement: Placement
    good_until: float
    """On the monotonic clock."""


class DirectoryCache:
    """Tenants by id and by slug, at most ``size`` of them; the ones read longest ago go first. Thread-safe."""

    def __init__(
        self, size: int, stale_for: timedelta, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._size = size
        self._stale_seconds = stale_for.total_seconds()
        self._clock = clock
        self._lock = threading.Lock()
        self._by_id: dict[str, Known] = {}
        self._id_of_slug: dict[str, str] = {}
        self._changes = 0

    def fresh(self, tenant_id: str) -> Known | None:
        """The tenant, if it is known and that is recent enough."""
        known = self._by_id.get(tenant_id)
        return known if known is not None and known.good_until > self._clock() else None

    def fresh_slug(self, slug: str) -> Known | None:
        """Same as `fresh`, by slug."""
        tenant_id = self._id_of_slug.get(slug)
        known = None if tenant_id is None else self.fresh(tenant_id)
        return known if known is not None and known.tenant.slug == slug else None

    def latest(self, tenant_id: str) -> Known | None:
        """The tenant as it was last known, however long ago."""
        return self._by_id.get(tenant_id)

    def ticket(self) -> tuple[float, int]:
        """To be taken before asking the database, and given to `remember` with the answer."""
        return self._clock(), self._changes

    def remember(self, tenant: Tenant, placement: Placement, ticket: tuple[float, int]) -> Known:
        """Keep what was read; its time counts from when it was asked, and a change since then makes it worthless."""
        asked, changes = ticket
        known = Known(tenant, placement, asked + self._stale_seconds)
        with self._lock:
            if changes == self._changes:
                self._forget(tenant.id)
                self._by_id[tenant.id] = known
                self._id_of_slug[tenant.slug] = tenant.id
                while len(self._by_id) > self._size:
                    self._forget(next(iter(self._by_id)))
        return known

    def forget(self, tenant_id: str) -> None:
        """This process has changed the tenant."""
        with self._lock:
            self._changes += 1
            self._forget(tenant_id)

    def _forget(self, tenant_id: str) -> None:
        known = self._by_id.pop(tenant_id, None)
        if known is not None and self._id_of_slug.get(known.tenant.slug) == tenant_id:
            del self._id_of_slug[known.tenant.slug]
