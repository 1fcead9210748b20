"""Real PostgreSQL and Valkey servers for tests and laptops, started and stopped by this process."""

from __future__ import annotations

from dotmac.database.embedded._address import PostgresAddress
from dotmac.database.embedded._postgres import EmbeddedPostgres
from dotmac.database.embedded._valkey import EmbeddedValkey, ValkeyAddress

__all__ = ["EmbeddedPostgres", "EmbeddedValkey", "PostgresAddress", "ValkeyAddress"]
