"""Values brought to a column's type: ISO strings become datetimes and UUIDs; what does not fit is a ValidationError."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pydantic
from sqlalchemy import ARRAY, JSON, BigInteger, DateTime, Enum, Integer, SmallInteger, String
from sqlalchemy.types import TypeDecorator

from dotmac.database.errors import ValidationError
from dotmac.database.models import EncryptedString, inner_type, passes_on, python_type_of

if TYPE_CHECKING:
    import enum

    from sqlalchemy.types import TypeEngine

    from dotmac.database.models import ModelShape


@dataclass(frozen=True, slots=True)
class PlainValues:
    """Values of a column that need no coercion: exactly of ``kind``, integers between ``low`` and ``high``."""

    kind: type[Any] | None
    low: int = 0
    high: int = 0

    def accepts(self, value: Any) -> bool:
        """True if ``value`` can go to the database as it is; False if `coerce` must look at it."""
        kind = type(value)
        if kind is not self.kind:
            return value is None
        if kind is str:
            return value.isascii() and "\x00" not in value
        return kind is not int or self.low <= value <= self.high

    def accepts_all(self, values: list[Any]) -> bool:
        """Same as `accepts` of each, much cheaper; may say False where all are accepted."""
        kinds = set(map(type, values))
        if kinds != {self.kind}:
            return False
        if self.kind is str:
            joined = "".join(values)
            return joined.isascii() and "\x00" not in joined
        return self.kind is not int or (self.low <= min(values) and max(values) <= self.high)


@lru_cache(maxsize=1024)
def plain_values(shape: ModelShape) -> dict[str, PlainValues]:
    """Which values of each column need no coercion; most do not, and bulk writes have many."""
    return {name: _plain_values(column_type) for name, column_type in shape.types.items()}


def _plain_values(column_type: TypeEngine[Any]) -> PlainValues:
    if isinstance(column_type, Enum):
        return PlainValues(column_type.enum_class)
    if isinstance(column_type, TypeDecorator | JSON | ARRAY | DateTime):
        return PlainValues(None)
    kind = python_type_of(column_type)
    if kind is int:
        bits = next((bits for kind, bits in _BITS if isinstance(column_type, kind)), 64)
        return PlainValues(int, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return PlainValues(kind)


_BITS = ((SmallInteger, 16), (BigInteger, 64), (Integer, 32))


def coerce(shape: ModelShape, name: str, value: Any) -> Any:
    """``value`` as the Python type of the column ``name``; None stays None.

    Raises:
        ValidationError: It cannot be; the message names the field and the type, never the value.
    """
    if plain_values(shape)[name].accepts(value):
        return value
    return _coerce(shape.types[name], value, name, shape.name)


def _coerce(column_type: TypeEngine[Any], value: Any, field: str, model: str) -> Any:  # noqa: PLR0911 - a case a type
    if isinstance(column_type, Enum):
        return _enum_member(column_type, value, field, model)
    if isinstance(column_type, JSON):
        return value
    if isinstance(column_type, ARRAY):
        if not isinstance(value, list | tuple | set | frozenset):
            raise _misfit(field, model, "a list")
        return [_coerce(column_type.item_type, item, field, model) for item in value]
    python_type = python_type_of(column_type)
    if python_type is None:
        return value
    if not isinstance(value, python_type) or (python_type is int and isinstance(value, bool)):
        value = _parse(python_type, value, field, model)
    if isinstance(value, str):
        return _text(value, field, model)
    if isinstance(value, dt.datetime) and _wants_timezone(column_type):
        return _moment(value, field, model)
    if isinstance(value, int):
        return _integer(column_type, value, field, model)
    return value


def _moment(value: dt.datetime, field: str, model: str) -> dt.datetime:
    if value.tzinfo is None:
        return value.replace(tzinfo=dt.UTC)
    try:
        value.astimezone(dt.UTC)
    except OverflowError:
        raise _misfit(field, model, "a time within the years 1 to 9999 in UTC") from None
    return value


def _wants_timezone(column_type: TypeEngine[Any]) -> bool:
    inner = inner_type(column_type)
    return isinstance(inner, DateTime) and bool(inner.timezone)


@lru_cache(maxsize=256)
def _adapter(python_type: type[Any]) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(python_type, config=pydantic.ConfigDict(arbitrary_types_allowed=True))


def _parse(python_type: type[Any], value: Any, field: str, model: str) -> Any:
    if python_type is dt.datetime and isinstance(value, dt.date):
        return dt.datetime.combine(value, dt.time())
    if isinstance(value, bool) and python_type is not bool:
        raise _misfit(field, model, python_type.__name__)
    try:
        return _adapter(python_type).validate_python(value)  # type: ignore[arg-type] # a class is hashable
    except (pydantic.ValidationError, pydantic.PydanticSchemaGenerationError):
        raise _misfit(field, model, python_type.__name__) from None


def _text(value: str, field: str, model: str) -> str:
    if "\x00" in value:
        raise ValidationError(
            f"{model}.{field}: text must not hold a NUL character.", model=model, field=field
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValidationError(
            f"{model}.{field}: text must be valid Unicode (it holds a lone surrogate).",
            model=model,
            field=field,
        ) from None
    return value


def _integer(column_type: TypeEngine[Any], value: int, field: str, model: str) -> int:
    bits = next((bits for kind, bits in _BITS if isinstance(column_type, kind)), None)
    if bits is not None and not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
        raise _misfit(field, model, f"an integer of {bits} bits")
    return value


def _enum_member(column_type: Enum, value: Any, field: str, model: str) -> Any:
    members = column_type.enum_class
    if members is None:
        if isinstance(value, str) and value in column_type.enums:
            return value
        raise _misfit(field, model, f"one of {', '.join(column_type.enums)}")
    if isinstance(value, members):
        return value
    try:
        return members(value)
    except ValueError:
        if isinstance(value, str) and value in members.__members__:
            return members[value]
    raise _misfit(field, model, f"one of {', '.join(_labels(members))}")


def _labels(members: type[enum.Enum]) -> list[str]:
    return [str(member.value) for member in members]


def _misfit(field: str, model: str, expected: str) -> ValidationError:
    return ValidationError(
        f"{model}.{field}: the value given does not fit; expected {expected}.", model=model, field=field
    )


def is_textual(column_type: TypeEngine[Any]) -> bool:
    """True for columns that LIKE makes sense on: text that is stored as it is read."""
    inner = inner_type(column_type)
    return isinstance(inner, String) and not isinstance(inner, Enum) and passes_on(column_type)


def is_sortable(column_type: TypeEngine[Any]) -> bool:
    """True for columns with one total order on every database."""
    return not isinstance(inner_type(column_type), JSON | ARRAY) and not isinstance(
        column_type, EncryptedString
    )
