"""Names to columns: ``field``, ``relation.field`` and ``json_column.path``, with what a repository allows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON

from dotmac.database.errors import ValidationError
from dotmac.database.models import ModelShape, describe

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.orm import InstrumentedAttribute
    from sqlalchemy.types import TypeEngine

_MAX_DEPTH = 8


@dataclass(frozen=True, slots=True, eq=False)
class FieldPath:
    """Where a name leads.

    Attributes:
        relations: Relationships to go through first, each with the shape it starts from.
        shape: The model the column is on.
        name: The column's attribute name.
        attribute: The column.
        type: Its type.
        json_path: Keys and indexes inside a JSON column.
    """

    relations: tuple[tuple[ModelShape, str], ...]
    shape: ModelShape
    name: str
    attribute: InstrumentedAttribute[Any]
    type: TypeEngine[Any]
    json_path: tuple[str | int, ...]


def require_allowed(name: str, allowed: Collection[str] | None, shape: ModelShape, verb: str) -> None:
    """Refuse a field that a repository does not list; ``allowed`` None lists everything.

    Raises:
        ValidationError: The field is not listed.
    """
    if allowed is not None and name not in allowed:
        listed = ", ".join(sorted(allowed)) or "none"
        raise ValidationError(
            f"{shape.name} cannot be {verb} by {name!r}. Allowed: {listed}.", model=shape.name, field=name
        )


@lru_cache(maxsize=4096)
def resolve_field(shape: ModelShape, name: str) -> FieldPath:
    """Where ``name`` leads, starting from ``shape``.

    Raises:
        ValidationError: There is no such field; the message lists what there is.
    """
    parts = name.split(".")
    if len(parts) > _MAX_DEPTH:
        raise ValidationError(f"{shape.name}: a field path has at most {_MAX_DEPTH} parts.", model=shape.name)
    here, relations = shape, []
    while parts[0] in here.relationships and len(parts) > 1:
        relations.append((here, parts[0]))
        here = describe(here.mapper.relationships[parts[0]].mapper.class_)
        parts = parts[1:]
    attribute = here.columns.get(parts[0])
    if attribute is None:
        raise unknown_field(here, parts[0])
    path = tuple(int(part) if part.isdecimal() else part for part in parts[1:])
    if path and not isinstance(here.types[parts[0]], JSON):
        raise ValidationError(
            f"{here.name}.{parts[0]} is not a JSON column: it has no {'.'.join(parts[1:])!r}.",
            model=here.name,
            field=name,
        )
    return FieldPath(tuple(relations), here, parts[0], attribute, here.types[parts[0]], path)


def unknown_field(shape: ModelShape, name: str) -> ValidationError:
    """The error for a name that is no field of ``shape``."""
    known = ", ".join(sorted(shape.columns))
    return ValidationError(
        f"{shape.name} has no field {name!r}. It has: {known}.", model=shape.name, field=name
    )
