"""What a column's values are in Python, decorated types included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import DateTime
from sqlalchemy.types import TypeDecorator

if TYPE_CHECKING:
    from sqlalchemy.types import TypeEngine


def python_type_of(column_type: TypeEngine[Any]) -> type[Any] | None:
    """The Python type of a column's values, or None where SQLAlchemy does not know it."""
    try:
        known = column_type.python_type
    except NotImplementedError:
        known = object
    if known is not object:
        return known
    inner = inner_type(column_type)
    # A decorator that does not say what it takes: moments are moments, and what it passes on as it is fits the inner type.
    tells = inner is not column_type and (isinstance(inner, DateTime) or passes_on(column_type))
    return python_type_of(inner) if tells else None


def passes_on(column_type: TypeEngine[Any]) -> bool:
    """True for types whose values reach the database as they are, not encrypted or rewritten."""
    return (
        not isinstance(column_type, TypeDecorator)
        or type(column_type).process_bind_param is TypeDecorator.process_bind_param
    )


def inner_type(column_type: TypeEngine[Any]) -> TypeEngine[Any]:
    """What a decorated type is made of; any other type is itself."""
    return column_type.impl_instance if isinstance(column_type, TypeDecorator) else column_type
