"""Rows for COPY: Python-side defaults filled in, values as the driver wants them, grouped by their columns."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam

from dotmac.database.models._audit import CONTEXT_OPTION
from dotmac.database.query._values import is_sql
from dotmac.database.query._violations import unfit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Dialect

    from dotmac.database.context import RequestContext
    from dotmac.database.models import ModelShape

COPY_FROM_ROWS = 500
"""Batches of at least this many rows go by COPY."""


class _Execution:
    """What column defaults that look at their execution see outside a statement."""

    def __init__(self, context: RequestContext) -> None:
        self.context = context
        self.execution_options = {CONTEXT_OPTION: self}
        self.row: dict[str, Any] = {}

    def get_current_parameters(self, isolate_multiinsert_groups: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002, ARG002 - SQLAlchemy's signature
        return self.row


@lru_cache(maxsize=1024)
def _client_defaults(shape: ModelShape) -> tuple[tuple[str, Any, Any], ...]:
    """Names, and for each a value or a callable that computes it."""
    found: list[tuple[str, Any, Any]] = []
    for name, attribute in shape.columns.items():
        default = attribute.property.columns[0].default
        if default is not None and (default.is_scalar or default.is_callable):
            found.append((name, default.arg, default.arg if default.is_callable else None))
    return (*found, *_mapper_values(shape))


def _mapper_values(shape: ModelShape) -> list[tuple[str, Any, Any]]:
    """What a flush adds to a new row by itself: which class it is of, and its version."""
    mapper = shape.mapper
    found: list[tuple[str, Any, Any]] = []
    names = {attribute.property.columns[0]: name for name, attribute in shape.columns.items()}
    if mapper.polymorphic_identity is not None and mapper.polymorphic_on in names:
        found.append((names[mapper.polymorphic_on], mapper.polymorphic_identity, None))
    if mapper.version_id_col in names and mapper.version_id_generator:
        generate: Any = mapper.version_id_generator
        found.append((names[mapper.version_id_col], None, lambda _: generate(None)))
    return found


def with_client_defaults(
    shape: ModelShape, rows: list[dict[str, Any]], context: RequestContext
) -> list[dict[str, Any]]:
    """``rows`` with the defaults that Python computes filled in; those of the server stay out."""
    execution = _Execution(context)
    for name, value, compute in _client_defaults(shape):
        for row in rows:
            if name not in row:
                execution.row = row
                row[name] = value if compute is None else compute(execution)
    return rows


def can_copy(shape: ModelShape, rows: list[dict[str, Any]]) -> bool:
    """True for batches that are large enough, of one table, and where no SQL expression computes a value."""
    if len(rows) < COPY_FROM_ROWS or len(shape.mapper.tables) > 1:
        return False
    if any(name not in row for name in _only_by_insert(shape) for row in rows):
        return False
    samples = {type(value): value for row in rows for value in row.values()}
    return not any(is_sql(value) for value in samples.values())


@lru_cache(maxsize=1024)
def _only_by_insert(shape: ModelShape) -> tuple[str, ...]:
    """Columns that an INSERT fills with SQL. A type that wraps its values in SQL is named by what no row holds."""
    columns = {name: attribute.property.columns[0] for name, attribute in shape.columns.items()}
    if any(column.type.bind_expression(bindparam("value")) is not None for column in columns.values()):
        return ("",)
    return tuple(
        name
        for name, column in columns.items()
        if column.default is not None and not column.default.is_scalar and not column.default.is_callable
    )


def batches(
    shape: ModelShape, rows: list[dict[str, Any]], dialect: Dialect, context: RequestContext
) -> Iterator[tuple[tuple[str, ...], list[tuple[Any, ...]]]]:
    """Column names and records, one batch for each set of columns that rows have in common."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in with_client_defaults(shape, rows, context):
        groups.setdefault(tuple(row), []).append(row)
    for names, members in groups.items():
        columns = [shape.columns[name].property.columns[0] for name in names]
        processors = [column.type.dialect_impl(dialect).bind_processor(dialect) for column in columns]
        try:
            records = _records(names, members, processors)
        except (ValueError, TypeError, ArithmeticError) as error:  # as an INSERT would report it
            raise unfit(error, shape) from error
        yield tuple(column.name for column in columns), records


def _records(
    names: tuple[str, ...], rows: list[dict[str, Any]], processors: list[Any]
) -> list[tuple[Any, ...]]:
    # Column by column: most need no processing, and then a column costs one list.
    columns = []
    for name, process in zip(names, processors, strict=True):
        values = [row[name] for row in rows]
        columns.append(values if process is None else [process(value) for value in values])
    return list(zip(*columns, strict=True))
