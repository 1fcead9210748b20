"""Alembic for every driver: an ``env.py`` in one call, URL and object filters, and the commands as functions.

Example:
    A whole ``env.py``::

        from dotmac.database.alembic import run_migrations
        from app.models import Base

        run_migrations(Base)
"""

from __future__ import annotations

from dotmac.database.alembic._commands import alembic_config, check, current, downgrade, upgrade
from dotmac.database.alembic._filters import include_object
from dotmac.database.alembic._render import render_item
from dotmac.database.alembic._runner import run_migrations
from dotmac.database.alembic._url import get_alembic_config_url

__all__ = [
    "alembic_config",
    "check",
    "current",
    "downgrade",
    "get_alembic_config_url",
    "include_object",
    "render_item",
    "run_migrations",
    "upgrade",
]
