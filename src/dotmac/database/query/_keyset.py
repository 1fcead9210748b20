"""Keyset paging: a total order, and the condition for the rows after (or before) one of them.

The order is the wanted sorts followed by the primary key, so that no two rows tie. The condition compares
lexicographically, with NULL as one value at the end its sort says ("seek method", M. Winand, Use The Index, Luke).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import REAL, Boolean, Double, Enum, Float, String, and_, cast, false, literal, or_, tuple_

from dotmac.database.errors import ValidationError
from dotmac.database.query._coercion import is_sortable
from dotmac.database.query._fields import require_allowed, resolve_field
from dotmac.database.query._options import SortField, SortOrder

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import InstrumentedAttribute
    from sqlalchemy.types import TypeEngine

    from dotmac.database.models import ModelShape

_SINGLE_PRECISION_BITS = 24  # MySQL manual 11.1.4: FLOAT(p) is single up to 24 bits


@dataclass(frozen=True, slots=True, eq=False)
class SortKey:
    """One column of a total order; equal only to itself, as comparing its attribute makes SQL."""

    name: str
    attribute: InstrumentedAttribute[Any]
    type: TypeEngine[Any]
    descending: bool
    nulls_first: bool
    nullable: bool

    def reversed(self) -> SortKey:
        """The same key in the opposite order; always the same object, as caches of ORDER BY know keys by identity."""
        return _reversed(self)


@lru_cache(maxsize=4096)
def _reversed(key: SortKey) -> SortKey:
    return replace(key, descending=not key.descending, nulls_first=not key.nulls_first)


def total_order(
    shape: ModelShape, sorts: Sequence[SortField], allowed: Collection[str] | None = None
) -> tuple[SortKey, ...]:
    """``sorts`` as keys, with the primary key appended in the last sort's direction.

    Raises:
        ValidationError: A field does not exist, is not allowed, is reached through a relation, or has no order.
    """
    return _total_order(shape, tuple(sorts), None if allowed is None else frozenset(allowed))


@lru_cache(maxsize=4096)
def _total_order(
    shape: ModelShape, sorts: tuple[SortField, ...], allowed: frozenset[str] | None
) -> tuple[SortKey, ...]:
    keys = [_sort_key(shape, sort, allowed) for sort in sorts]
    descending = keys[-1].descending if keys else False
    named = {key.name for key in keys}
    keys.extend(
        SortKey(name, attribute, shape.types[name], descending, nulls_first=descending, nullable=False)
        for name, attribute in zip(shape.identity_names, shape.identity, strict=True)
        if name not in named
    )
    return tuple(keys)


def _sort_key(shape: ModelShape, sort: SortField, allowed: Collection[str] | None) -> SortKey:
    require_allowed(sort.field, allowed, shape, "sorted")
    path = resolve_field(shape, sort.field)
    if path.relations or path.json_path:
        raise ValidationError(
            f"{shape.name} cannot be sorted by {sort.field!r}: only its own columns sort.",
            model=shape.name,
            field=sort.field,
        )
    if not is_sortable(path.attribute.type):
        raise ValidationError(
            f"{shape.name}.{sort.field} has no order on every database; sort by another column.",
            model=shape.name,
            field=sort.field,
        )
    nullable = bool(path.attribute.property.columns[0].nullable)
    return SortKey(
        sort.field, path.attribute, path.type, sort.order is SortOrder.DESC, sort.nulls_first, nullable
    )


@lru_cache(maxsize=4096)
def order_by(keys: tuple[SortKey, ...], dialect: str) -> list[ColumnElement[Any]]:
    """ORDER BY for ``keys``, written so that each database puts NULLs where they belong."""
    clauses: list[ColumnElement[Any]] = []
    for key in keys:
        column = comparable(key.attribute, dialect)
        clause = column.desc() if key.descending else column.asc()
        if not key.nullable:
            clauses.append(clause)
        elif dialect == "postgresql":
            # PostgreSQL's default is NULLS LAST ascending and FIRST descending: left unsaid, so that any index fits.
            is_default = key.nulls_first == key.descending
            clauses.append(clause if is_default else _with_nulls(clause, key))
        elif dialect in {"mysql", "mariadb"}:  # has no NULLS FIRST | LAST
            is_null = key.attribute.is_(None)
            clauses += [is_null.desc() if key.nulls_first else is_null.asc(), clause]
        else:
            clauses.append(_with_nulls(clause, key))
    return clauses


def _with_nulls(clause: Any, key: SortKey) -> ColumnElement[Any]:
    placed: ColumnElement[Any] = clause.nulls_first() if key.nulls_first else clause.nulls_last()
    return placed


def comparable(attribute: InstrumentedAttribute[Any], dialect: str) -> Any:
    """The column as it sorts and compares alike: MySQL sorts an ENUM by position, but compares it as text."""
    if dialect in {"mysql", "mariadb"} and isinstance(attribute.type, Enum):
        return cast(attribute, String(255))
    return attribute


def require_exact(keys: Sequence[SortKey], dialect: str) -> None:
    """Refuse positions in MySQL's FLOAT, whose values never equal what was read of them.

    Raises:
        ValidationError: A key is single-precision there.
    """
    for key in keys:
        if (
            dialect in {"mysql", "mariadb"}
            and isinstance(key.type, Float)
            and not isinstance(key.type, Double)
        ):
            if (key.type.precision or 0) > _SINGLE_PRECISION_BITS:
                continue
            raise ValidationError(
                f"Cursors over {key.name!r} would skip rows: MySQL's FLOAT is single-precision. Declare it Double, or sort "
                "by another column.",
                field=key.name,
            )


def after(keys: Sequence[SortKey], values: Sequence[Any], dialect: str) -> ColumnElement[bool]:
    """The condition for rows that come after the row with these ``values``."""
    if dialect == "postgresql":
        values = [_as_precise(key, value) for key, value in zip(keys, values, strict=True)]
    if _comparable_as_row(keys, dialect):
        columns = tuple_(*(key.attribute for key in keys))
        row = tuple_(*values, types=[key.type for key in keys])
        return columns < row if keys[0].descending else columns > row
    clause = _beyond(keys[-1], values[-1], dialect)
    for key, value in zip(reversed(keys[:-1]), reversed(values[:-1]), strict=True):
        clause = or_(_beyond(key, value, dialect), and_(_equal(key, value, dialect), clause))
    first = _at_or_beyond(keys[0], values[0], dialect)
    # Implied by the rest, but in a form that an index on the first column can serve.
    return clause if first is None else and_(first, clause)


def _as_precise(key: SortKey, value: Any) -> Any:
    """A single-precision number as one: drivers send doubles, which do not equal what was read."""
    if value is None or not isinstance(key.type, Float) or isinstance(key.type, Double):
        return value
    single = isinstance(key.type, REAL) or 0 < (key.type.precision or 0) <= _SINGLE_PRECISION_BITS
    return cast(value, key.type) if single else value


def _comparable_as_row(keys: Sequence[SortKey], dialect: str) -> bool:
    if dialect in {"mysql", "mariadb"} or len(keys) < 2:  # noqa: PLR2004 - MySQL does not use an index for it
        return False
    return not any(key.nullable for key in keys) and len({key.descending for key in keys}) == 1


def _literal(value: Any, dialect: str) -> Any:
    if dialect in {"mysql", "mariadb"} and isinstance(value, enum.Enum):
        return value.name
    return orderable(value)


def orderable(value: Any) -> Any:
    """``value`` as ``<`` and ``>`` take it: SQLAlchemy refuses a bare True or False."""
    return literal(value, Boolean()) if isinstance(value, bool) else value


def _beyond(key: SortKey, value: Any, dialect: str) -> ColumnElement[bool]:
    if value is None:
        return key.attribute.is_not(None) if key.nulls_first else false()
    column, position = comparable(key.attribute, dialect), _literal(value, dialect)
    further: ColumnElement[bool] = column < position if key.descending else column > position
    if key.nullable and not key.nulls_first:
        return or_(further, key.attribute.is_(None))
    return further


def _equal(key: SortKey, value: Any, dialect: str) -> ColumnElement[bool]:
    if value is None:
        return key.attribute.is_(None)
    equal: ColumnElement[bool] = comparable(key.attribute, dialect) == _literal(value, dialect)
    return equal


def _at_or_beyond(key: SortKey, value: Any, dialect: str) -> ColumnElement[bool] | None:
    if value is None or (key.nullable and not key.nulls_first):
        return None
    column, position = comparable(key.attribute, dialect), _literal(value, dialect)
    bound: ColumnElement[bool] = column <= position if key.descending else column >= position
    return bound
