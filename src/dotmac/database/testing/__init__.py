"""Tools for your tests: a pytest plugin with real servers, and stand-ins that need none."""

from __future__ import annotations

__all__: list[str] = []
