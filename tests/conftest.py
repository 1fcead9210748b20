"""The project's own plugin gives the servers; ``pytester`` tests that plugin."""

from __future__ import annotations

pytest_plugins = ["pytester"]
