"""What the catalog says, in a fixed number of queries, however many tables and schemas there are."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text

from dotmac.database.tenancy.doctor._queries import QUERIES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import Connection

TENANT_SCHEMAS: Final = "tenant_*"


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """A database as its catalog shows it; every row is a mapping, named as in ``_queries``.

    Attributes:
        server: One row: version, database, current user.
        roles: The roles that are looked into: what the application logs in as.
        tables: Ordinary and partitioned tables outside the system's schemas.
        policies: Policies on them.
        views: Views and materialized views that read tables which hold a tenant column.
        functions: Functions that are no extension's.
        foreign_keys: References between tenants' tables, and from one schema to another.
        uniques: Unique indexes of tenants' tables that leave the tenant out.
        sequences: Sequences of tenants' tables that somebody else may read or set.
        schemas: Schemas that are not the system's.
        enums: Native enum types in them.
        tenant_schemas: Pattern of the names of schemas that belong to one tenant each.
    """

    server: Mapping[str, Any]
    roles: Sequence[Mapping[str, Any]] = ()
    tables: Sequence[Mapping[str, Any]] = ()
    policies: Sequence[Mapping[str, Any]] = ()
    views: Sequence[Mapping[str, Any]] = ()
    functions: Sequence[Mapping[str, Any]] = ()
    foreign_keys: Sequence[Mapping[str, Any]] = ()
    uniques: Sequence[Mapping[str, Any]] = ()
    sequences: Sequence[Mapping[str, Any]] = ()
    schemas: Sequence[Mapping[str, Any]] = ()
    enums: Sequence[Mapping[str, Any]] = ()
    tenant_schemas: str = field(default=TENANT_SCHEMAS)

    def is_tenants(self, schema: str) -> bool:
        """True if ``schema`` belongs to one tenant."""
        return fnmatchcase(schema, self.tenant_schemas)


def read_facts(
    connection: Connection,
    *,
    roles: Sequence[str] = (),
    tenant_column: str = "tenant_id",
    tenant_schemas: str = TENANT_SCHEMAS,
) -> DatabaseFacts:
    """The facts of the database that ``connection`` is to. Takes no locks on tables and reads no rows of theirs.

    Args:
        connection: PostgreSQL 15 or newer; any role may ask, and one that may see every schema sees most.
        roles: What the application logs in as; default: the current user.
        tenant_column: Name of the column that says whose a row is.
        tenant_schemas: Pattern of the names of schemas that belong to one tenant each.
    """
    parameters = {"column": tenant_column, "roles": list(roles)}
    with _settings(connection):
        found: dict[str, Any] = {
            name: list(connection.execute(text(sql), parameters).mappings()) for name, sql in QUERIES.items()
        }
    found["server"] = found["server"][0]
    return DatabaseFacts(**found, tenant_schemas=tenant_schemas)


@contextmanager
def _settings(connection: Connection) -> Iterator[None]:
    """For the block, in this transaction: names are printed with their schemas, and catalogs are joined by hashing.

    Catalogs that grew by thousands of tables a minute ago look empty to the planner, whose loops then take minutes.
    """
    chosen = {"search_path": "pg_catalog", "enable_nestloop": "off"}
    change = text("SELECT set_config(:name, :value, true)")
    before = {
        name: connection.scalar(text("SELECT current_setting(:name)"), {"name": name}) for name in chosen
    }
    for name, value in chosen.items():
        connection.execute(change, {"name": name, "value": value})
    yield
    for name, value in before.items():
        connection.execute(change, {"name": name, "value": value})
