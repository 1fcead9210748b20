"""The application for a server: ``uvicorn taskboard.main:app``."""

from __future__ import annotations

from taskboard.api import create_app

app = create_app()
