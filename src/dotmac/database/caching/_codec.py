"""Values to bytes and back: JSON, with what JSON lacks under a tag. Never pickle: bytes from outside run nothing.

``None``, numbers, texts, lists and dicts with text keys are plain JSON. UUID, Decimal, date, time, datetime, timedelta, bytes,
tuple, set, frozenset, dicts with other keys and the cache's models are ``{"$": kind, "v": …}``; a dict that has a ``$`` of
its own is tagged too. A datetime keeps its offset, not the name of its zone.
"""

from __future__ import annotations

import base64
import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import orjson

from dotmac.database.caching._keys import LONGEST_BYTES
from dotmac.database.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dotmac.database.caching._models import Models

_TAG = "$"
_INT64 = 2**63
_UINT64 = 2**64

PLAIN: Final = 0
"""Format of bytes that are JSON as it is."""
TAGGED: Final = 1
"""Format of bytes in which tags stand for what JSON lacks."""

_AS_TEXT: dict[type, tuple[str, Callable[[Any], Any]]] = {
    UUID: ("uuid", str),
    Decimal: ("decimal", str),
    datetime: (
        "datetime",
        lambda value: [value.isoformat(), value.fold] if value.fold else value.isoformat(),
    ),
    date: ("date", date.isoformat),
    time: ("time", lambda value: [value.isoformat(), value.fold] if value.fold else value.isoformat()),
    timedelta: ("timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    bytes: ("bytes", lambda value: base64.b64encode(value).decode()),
    bytearray: ("bytes", lambda value: base64.b64encode(value).decode()),
}


def _folded(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    return lambda stored: (
        parse(stored) if isinstance(stored, str) else parse(stored[0]).replace(fold=stored[1])
    )


_FROM_TEXT: dict[str, Callable[[Any], Any]] = {
    "uuid": UUID,
    "decimal": Decimal,
    "datetime": _folded(datetime.fromisoformat),
    "date": date.fromisoformat,
    "time": _folded(time.fromisoformat),
    "timedelta": lambda stored: timedelta(*stored),
    "bytes": lambda stored: base64.b64decode(stored, validate=True),
    "int": int,
    "float": float,
}


class DamagedValueError(Exception):
    """Bytes that are not what this codec wrote; to callers of a cache, a miss."""


class Codec:
    """Encodes values for one cache.

    Args:
        models: The classes it may make from bytes.
    """

    def __init__(self, models: Models) -> None:
        self._models = models

    def encode(self, value: Any) -> tuple[int, bytes]:
        """The format and the bytes of ``value``.

        Raises:
            ValidationError: It holds something that cannot be stored, or is too large.
        """
        try:
            form = PLAIN if _is_json(value) else TAGGED
            body = orjson.dumps(value if form == PLAIN else self._tagged(value))
        except RecursionError:
            raise ValidationError("The value is nested too deeply to be cached, or holds itself.") from None
        except (TypeError, UnicodeEncodeError) as error:
            raise ValidationError(f"The value cannot be cached: {error}.") from None
        if len(body) > LONGEST_BYTES:
            raise ValidationError(
                f"The value takes {len(body)} bytes; Redis stores at most 512 MB under a key."
            )
        return form, body

    def decode(self, form: int, body: bytes | memoryview) -> Any:
        """The value that `encode` was given.

        Raises:
            DamagedValueError: The bytes are something else.
        """
        try:
            stored = orjson.loads(body)
            if form == PLAIN:
                return stored
            if form == TAGGED:
                return self._untagged(stored)
        except (
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            AttributeError,
            InvalidOperation,
            OverflowError,
            RecursionError,
        ) as error:
            raise DamagedValueError(type(error).__name__) from None
        raise DamagedValueError(f"format {form}")

    def _tagged(self, value: Any) -> Any:  # noqa: PLR0911 - one for each kind of value
        kind = type(value)
        if kind is str or kind is bool or value is None:
            return value
        if kind is int:
            return value if -_INT64 <= value < _UINT64 else {_TAG: "int", "v": _digits(value)}
        if kind is float:
            return value if math.isfinite(value) else {_TAG: "float", "v": str(value)}
        if kind is dict:
            return self._tagged_dict(value)
        if kind is list:
            return [self._tagged(item) for item in value]
        if kind in (tuple, set, frozenset):
            return {_TAG: kind.__name__, "v": [self._tagged(item) for item in value]}
        if kind in _AS_TEXT:
            name, write = _AS_TEXT[kind]
            return {_TAG: name, "v": write(value)}
        return self._tagged_model(value, kind)

    def _tagged_dict(self, value: dict[Any, Any]) -> Any:
        if _TAG not in value and all(type(key) is str for key in value):
            return {key: self._tagged(item) for key, item in value.items()}
        return {_TAG: "dict", "v": [[self._tagged(key), self._tagged(item)] for key, item in value.items()]}

    def _tagged_model(self, value: Any, kind: type[Any]) -> Any:
        found = self._models.find(kind)
        if found is not None:
            name, form = found
            return {_TAG: "model", "m": name, "v": self._tagged(form.take_apart(value))}
        for plain in (str, int, float):
            if isinstance(value, plain):  # an IntEnum or a StrEnum too: what it is worth
                return self._tagged(plain(getattr(value, "value", value)))
        for base, (tag, write) in _AS_TEXT.items():
            if isinstance(value, base):  # drivers have UUIDs and timestamps of their own
                return {_TAG: tag, "v": write(value)}
        raise ValidationError(
            f"A {kind.__module__}.{kind.__qualname__} cannot be cached. Give its class to the cache, as in "
            f"SmartCache(…, models=[{kind.__name__}]), if it is a model, a dataclass or an Enum; else cache a dict of it.",
            model=kind.__name__,
        )

    def _untagged(self, stored: Any) -> Any:
        if type(stored) is list:
            return [self._untagged(item) for item in stored]
        if type(stored) is not dict:
            return stored
        if _TAG not in stored:
            return {key: self._untagged(item) for key, item in stored.items()}
        return self._from_tag(stored[_TAG], stored)

    def _from_tag(self, kind: str, stored: dict[str, Any]) -> Any:
        inner = stored["v"]
        if kind in _FROM_TEXT:
            return _FROM_TEXT[kind](inner)
        if kind == "model":
            return self._models.named(stored["m"]).put_together(self._untagged(inner))
        if kind == "dict":
            return {self._untagged(key): self._untagged(item) for key, item in inner}
        make = {"tuple": tuple, "set": set, "frozenset": frozenset}[kind]
        return make(self._untagged(item) for item in inner)


def _is_json(value: Any) -> bool:
    """True if plain JSON gives ``value`` back as it is."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(-_INT64 <= value < _UINT64)
    if kind is float:
        return math.isfinite(value)
    if kind is dict:
        return _TAG not in value and all(
            type(key) is str and (type(item) is str or _is_json(item)) for key, item in value.items()
        )
    if kind is list:
        return all(map(_is_json, value))
    return False


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # more digits than the interpreter converts
        raise ValidationError("An int of that many digits cannot be cached.") from None
