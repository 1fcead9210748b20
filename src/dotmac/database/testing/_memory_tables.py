"""Tables of any model, made in SQLite: what SQLite spells differently is respelled, what it has not is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON, Column, Integer, MetaData, Table
from sqlalchemy.exc import CompileError, DBAPIError
from sqlalchemy.types import TypeDecorator

from dotmac.database.errors import ConfigurationError
from dotmac.database.models import describe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection
    from sqlalchemy.orm import Mapper

_INSTEAD = "Test this model on PostgreSQL: the dotmac_session fixture gives one without any setting up."


def tables_of(models: Iterable[type[Any]]) -> list[Table]:
    """The models' tables and all that these refer to, by foreign key or relationship; parents first.

    Raises:
        TypeError: One is not a mapped class.
    """
    tables: dict[Table, None] = {}
    mappers: list[Mapper[Any]] = [describe(model).mapper for model in models]
    seen = set(mappers)
    for mapper in mappers:  # grows while it is walked
        found = [table for table in mapper.tables if isinstance(table, Table)]
        for relationship in mapper.relationships:
            if isinstance(relationship.secondary, Table):
                found.append(relationship.secondary)
            if relationship.mapper not in seen:
                seen.add(relationship.mapper)
                mappers.append(relationship.mapper)
        for table in found:
            _with_parents(table, tables)
    return list(tables)


def _with_parents(table: Table, tables: dict[Table, None]) -> None:
    if table in tables:
        return
    tables[table] = None
    for key in table.foreign_keys:
        _with_parents(key.column.table, tables)


def translate_schemas(tables: Iterable[Table]) -> dict[str | None, str | None]:
    """A ``schema_translate_map`` under which all ``tables`` live in SQLite's only schema."""
    return {table.schema: None for table in tables if table.schema is not None}


def create_tables(connection: Connection, tables: Iterable[Table]) -> None:
    """Make the tables that are not there yet.

    An integer key that the server counts up is ``INTEGER`` whatever its size, JSONB is ``JSON``, and schemas are left
    out.

    Raises:
        ConfigurationError: SQLite cannot have such a table (arrays, server defaults in another dialect); says which.
    """
    ours = MetaData()
    for table in tables:
        if table.name in ours.tables:
            raise ConfigurationError(
                f"Two tables are named {table.name!r}, in different schemas; SQLite has one schema. {_INSTEAD}"
            )
        copy = table.to_metadata(ours, schema=None, referred_schema_fn=lambda *_: None)  # type: ignore[arg-type] # None is a schema
        for column in copy.columns:
            _respell(copy, column)
            _require_type(copy, column, connection)
    for table in ours.sorted_tables:
        try:
            table.create(connection, checkfirst=True)
        except (CompileError, DBAPIError) as error:
            reason = error.orig if isinstance(error, DBAPIError) else error
            raise ConfigurationError(
                f"SQLite cannot have table {table.name!r}: {reason}. {_INSTEAD}"
            ) from error


def _respell(table: Table, column: Column[Any]) -> None:
    inner = column.type.impl_instance if isinstance(column.type, TypeDecorator) else column.type
    if column is table.autoincrement_column:
        column.type = Integer()  # only INTEGER PRIMARY KEY counts up (https://sqlite.org/autoinc.html)
    elif isinstance(inner, JSON):
        column.type = JSON()


def _require_type(table: Table, column: Column[Any], connection: Connection) -> None:
    try:
        column.type.compile(connection.dialect)
    except CompileError as error:
        raise ConfigurationError(
            f"SQLite cannot have table {table.name!r}: it has no type for column {column.name!r} "
            f"({type(column.type).__name__}). {_INSTEAD}"
        ) from error
