"""Users and tasks over HTTP; the tenant is in the header ``X-Tenant-ID``, errors are problem details (RFC 9457)."""

from __future__ import annotations

from taskboard.api.application import create_app

__all__ = ["create_app"]
