"""How a directory works: what tenants get, who may use it, and how long it may be out of date."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from dotmac.database.tenancy._names import check_role_name, check_schema_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from sqlalchemy import MetaData, Table


@dataclass(frozen=True, slots=True)
class DirectoryOptions:
    """How a directory works.

    Attributes:
        metadata: The application's tables, as ``Base.metadata``; without it, new schemas and databases stay empty.
        tables: The tables each tenant gets in a schema of its own; default: those whose rows belong to tenants.
        migrations: The Alembic directory whose head a new schema or database is marked to be at.
        row_level_security: True to have policies in tenants' schemas and databases as well.
        admin_schema: The schema of the directory's table; elsewhere than on PostgreSQL, the prefix of its name.
        shared_schema: The schema of tables that all tenants share; last where a tenant's names are looked up.
        application_role: The database role the application connects as; it gets rights on rows, and no others.
        shared_role: A role with rights on shared tables, of which every tenant's own role becomes a member.
        stale_for: How long another process may go on with what it knew before a change.
        cache_size: How many tenants a process remembers.
        admission_timeout: How long a session waits for its turn when the tenant has used up its connections.
    """

    metadata: MetaData | None = None
    tables: Sequence[Table] | None = None
    migrations: str | PathLike[str] | None = None
    row_level_security: bool = False
    admin_schema: str = "admin"
    shared_schema: str | None = "shared"
    application_role: str | None = None
    shared_role: str | None = None
    stale_for: timedelta = timedelta(seconds=5)
    cache_size: int = 100_000
    admission_timeout: timedelta = timedelta(seconds=5)

    def __post_init__(self) -> None:
        check_schema_name(self.admin_schema)
        if self.shared_schema is not None:
            check_schema_name(self.shared_schema, public_too=True)
        for role in (self.application_role, self.shared_role):
            if role is not None:
                check_role_name(role)
        if self.cache_size < 1:
            raise ValueError("cache_size is at least 1.")
