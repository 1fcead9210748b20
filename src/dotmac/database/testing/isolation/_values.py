"""Values for rows that an attack may be tried on, by a column's type; texts are recognisable."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import random
import secrets
import uuid
from typing import TYPE_CHECKING, Any

from sqlalchemy import types

from dotmac.database.models import python_type_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Column

MARK_CHARS = 12
"""A text at least as long is recognisable: nothing else holds it by chance."""

_random = random.SystemRandom()

_MADE: dict[type[Any], Callable[[], Any]] = {
    uuid.UUID: uuid.uuid4,
    bool: lambda: True,
    int: lambda: _random.randint(10**8, 2**31 - 1),
    float: lambda: 1.0,
    decimal.Decimal: lambda: decimal.Decimal(1),
    dt.datetime: lambda: dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
    dt.date: lambda: dt.date(2020, 1, 1),
    dt.time: lambda: dt.time(12),
    dt.timedelta: lambda: dt.timedelta(hours=1),
    bytes: lambda: secrets.token_bytes(8),
    dict: dict,
    list: list,
}


def new_value(column: Column[Any]) -> Any:  # noqa: PLR0911 - one for each kind of type
    """A value that ``column`` takes, another one each time where its type has enough of them.

    Raises:
        TypeError: Its type is not known; give the values of this model yourself.
    """
    if isinstance(column.type, types.Enum):
        first = column.type.enums[0]
        kind = column.type.enum_class
        return first if kind is None else kind[first]
    if isinstance(column.type, types.Uuid) and not column.type.as_uuid:
        return str(uuid.uuid4())
    if isinstance(column.type, types.JSON):
        return {}
    kind = python_type_of(column.type)
    if kind is str:
        return _text(column)
    if isinstance(column.type, types.SmallInteger):
        return _random.randint(1000, 32000)
    if isinstance(column.type, types.DateTime) and not column.type.timezone:
        return dt.datetime(2020, 1, 1)  # noqa: DTZ001 - the column wants it so
    if kind is not None and issubclass(kind, enum.Enum):
        return next(iter(kind))
    for known, make in _MADE.items():
        if kind is known:
            return make()
    raise TypeError(
        f"No value is known for {column.table.name}.{column.name} ({column.type!r}): pass values={{…}} for its model."
    )


def _text(column: Column[Any]) -> str:
    length = getattr(column.type, "length", None)
    word = f"secret-{secrets.token_hex(8)}"
    if length is None or length >= len(word):
        return word
    return secrets.token_hex(length)[:length]
