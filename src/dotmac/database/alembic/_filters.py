"""Which objects autogenerate may compare: never the system's, an extension's, a partition or a view."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import MetaData, Table, text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from sqlalchemy import Connection
    from sqlalchemy.schema import SchemaItem

SYSTEM_SCHEMAS: Final = frozenset(
    {"information_schema", "pg_catalog", "pg_toast", "mysql", "performance_schema", "sys"}
)
EXTENSION_SCHEMAS: Final = frozenset(
    {"citus", "citus_internal", "columnar", "columnar_internal", "cron", "tiger", "tiger_data", "topology"}
    | {"_timescaledb_cache", "_timescaledb_catalog", "_timescaledb_config", "_timescaledb_internal"}
)
# In a schema that the extension shares with the application (PostGIS and pg_partman install into public by default).
EXTENSION_TABLES: Final = frozenset(
    {"spatial_ref_sys", "geometry_columns", "geography_columns", "raster_columns", "raster_overviews"}
    | {"part_config", "part_config_sub"}
)
VERSION_TABLES: Final = frozenset({"alembic_version"})

_FOREIGN_TABLES = text("""
    SELECT CASE WHEN n.nspname = current_schema() THEN NULL ELSE n.nspname END, c.relname
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'f')
      AND (c.relispartition OR EXISTS (
        SELECT FROM pg_catalog.pg_depend d
        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'))
""")

_ObjectType = Literal["schema", "table", "column", "index", "unique_constraint", "foreign_key_constraint"]


def include_object(
    object: SchemaItem,  # noqa: A002 - the name Alembic's documentation gives this argument
    name: str | None,
    type_: str,
    reflected: bool,  # noqa: FBT001 - Alembic passes it by position
    compare_to: SchemaItem | None,
    *,
    skip_schemas: Collection[str] = SYSTEM_SCHEMAS | EXTENSION_SCHEMAS,
    skip_tables: Collection[str] = VERSION_TABLES | EXTENSION_TABLES,
    skip_views: bool = True,
) -> bool:
    """True if autogenerate should compare ``object``; has the shape of Alembic's ``include_object`` hook.

    Args:
        object: The table, column, index or constraint.
        name: Its name.
        type_: What it is, in Alembic's words.
        reflected: It was found in the database (as opposed to the models).
        compare_to: What it is compared with, None if the other side lacks it.
        skip_schemas: Objects in these schemas are left alone.
        skip_tables: Tables found in the database only, with these names, are left alone. A table of the same name
            that the models define is compared.
        skip_views: Leave alone what the models declare as a view: SQLAlchemy 2.1's ``CreateView``, or a table with
            ``info={"is_view": True}``.
    """
    table = object if isinstance(object, Table) else getattr(object, "table", None)
    if not isinstance(table, Table):
        return True
    if table.schema is not None and table.schema in skip_schemas:
        return False
    if type_ == "table" and reflected and compare_to is None and name in skip_tables:
        return False
    return not (skip_views and _is_view(table))


def _is_view(table: Table) -> bool:
    return bool(table.info.get("is_view") or getattr(table, "is_view", False))


def foreign_tables(connection: Connection) -> frozenset[tuple[str | None, str]]:
    """``(schema, name)`` of tables no model describes: partitions, and tables that belong to an extension.

    The schema is None for the current one. PostgreSQL only (one query); elsewhere there are none.
    """
    if connection.dialect.name != "postgresql":
        return frozenset()
    return frozenset((schema, name) for schema, name in connection.execute(_FOREIGN_TABLES))


def name_filter(
    metadata: Iterable[MetaData],
    *,
    schemas: Collection[str] | None = None,
    foreign: Callable[[], Collection[tuple[str | None, str]]] = tuple,
) -> Callable[[str | None, _ObjectType, Any], bool]:
    """An Alembic ``include_name`` hook, asked before anything is reflected (so skipping costs nothing).

    Args:
        metadata: The models.
        schemas: Schemas to look into besides the default one; None: those the models mention.
        foreign: Gives the tables to leave alone unless the models define them (`foreign_tables`); called only when needed.
    """
    known = {(table.schema, table.name) for part in metadata for table in part.tables.values()}
    wanted = {schema for schema, _ in known if schema is not None} if schemas is None else set(schemas)

    def include_name(name: str | None, type_: _ObjectType, parent_names: Any) -> bool:
        if type_ == "schema":
            return name is None or name in wanted
        if type_ == "table" and name is not None:
            key = (parent_names.get("schema_name"), name)
            return key in known or key not in foreign()
        return True

    return include_name
