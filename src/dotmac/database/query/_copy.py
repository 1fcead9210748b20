"""Rows for COPY: Python-side defaults filled in, values as the driver wants them, grouped by their columns."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dotmac.database.models._audit import CONTEXT_OPTION
from dotmac.database.query._values import is_sql

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
        self.execution_options = {CONTEXT_OPTION: context}
        self.row: dict[str, Any] = {}

    def get_current_parameters(self, isolate_multiinsert_groups: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002, ARG002 - SQLAlchemy's signature
        return self.row


@lru_cache(maxsize=1024)
def _client_defaults(shape: ModelShape) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (name, default)
        for name, attribute in shape.columns.items()
        if (default := attribute.property.columns[0].default) is not None
        and (default.is_scalar or default.is_callable)
    )


def with_client_defaults(
    shape: ModelShape, rows: list[dict[str, Any]], context: RequestContext
) -> list[dict[str, Any]]:
    """``rows`` with the defaults that Python computes filled in; those of the server stay out."""
    execution = _Execution(context)
    for name, default in _client_defaults(shape):
        compute = None if default.is_scalar else default.arg
        for row in rows:
            if name not in row:
                execution.row = row
                row[name] = default.arg if compute is None else compute(execution)
    return rows


def can_copy(rows: list[dict[str, Any]]) -> bool:
    """True for batches that are large enough and hold no SQL expressions."""
    if len(rows) < COPY_FROM_ROWS:
        return False
    samples = {type(value): value for row in rows for value in row.values()}
    return not any(is_sql(value) for value in samples.values())


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
        yield tuple(column.name for column in columns), _records(names, members, processors)


def _records(
    names: tuple[str, ...], rows: list[dict[str, Any]], processors: list[Any]
) -> list[tuple[Any, ...]]:
    # Column by column: most need no processing, and then a column costs one list.
    columns = []
    for name, process in zip(names, processors, strict=True):
        values = [row[name] for row in rows]
        columns.append(values if process is None else [process(value) for value in values])
    return list(zip(*columns, strict=True))
