"""Opaque page cursors: a position in an order, bound to the query it belongs to, signed when there is a key."""

from __future__ import annotations

import base64
import datetime as dt
import enum
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any

from dotmac.database.errors import InvalidCursorError, ValidationError
from dotmac.database.models import python_type_of
from dotmac.database.query._coercion import coerce

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dotmac.database.models import ModelShape
    from dotmac.database.query._keyset import SortKey
    from dotmac.database.query._options import Direction, QueryOptions
    from dotmac.database.tenancy import Scope

_VERSION = 1
_SIGNATURE_BYTES = 16
_DAMAGED = "The page cursor is damaged; start again from the first page."
_NOT_OURS = "The page cursor does not fit this query; start again from the first page."


def fingerprint(shape: ModelShape, keys: Sequence[SortKey], options: QueryOptions, scope: Scope) -> str:
    """What a cursor is bound to: model, order, filters, tenant, and whether deleted rows count."""
    order = [(key.name, key.descending, key.nulls_first) for key in keys]
    filters = [item.model_dump() for item in options.filters]
    parts = [shape.name, shape.table.fullname, order, filters, scope.tenant_id, scope.include_deleted]
    return hashlib.sha256(json.dumps(parts, default=_described).encode()).hexdigest()[:16]


def _described(value: Any) -> Any:
    if isinstance(value, set | frozenset):  # alike in every process, whose sets have orders of their own
        return sorted(map(repr, value))
    return encode_value(value)


def encode_cursor(
    values: Sequence[Any], bound_to: str, direction: Direction, secret: str | bytes | None = None
) -> str:
    """A url-safe token for the position ``values``."""
    return seal([bound_to, direction, [encode_value(value) for value in values]], secret)


def decode_cursor(
    token: str, shape: ModelShape, keys: Sequence[SortKey], bound_to: str, secret: str | bytes | None = None
) -> tuple[list[Any], Direction]:
    """The position and direction in ``token``.

    Raises:
        InvalidCursorError: It is damaged, wrongly signed, or belongs to another query, tenant or model.
    """
    try:
        token_bound_to, direction, values = unseal(token, secret)
    except InvalidCursorError:
        raise
    except (ValueError, TypeError):
        raise InvalidCursorError(_NOT_OURS) from None
    if direction not in ("after", "before") or not isinstance(values, list):
        raise InvalidCursorError(_NOT_OURS)
    if token_bound_to != bound_to:
        raise InvalidCursorError(
            "The page cursor belongs to another query (other filters, sorts, tenant or model); start again from the first page."
        )
    if len(values) != len(keys):
        raise InvalidCursorError(_NOT_OURS)
    try:
        return [_decode_value(shape, key, value) for key, value in zip(keys, values, strict=True)], direction
    except (ValidationError, ValueError, TypeError, KeyError):
        raise InvalidCursorError(_NOT_OURS) from None


def seal(content: Any, secret: str | bytes | None) -> str:
    """``content`` (JSON) as a url-safe token, signed if there is a ``secret``."""
    payload = json.dumps([_VERSION, content], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_signature(payload, secret) + payload).rstrip(b"=").decode()


def unseal(token: str, secret: str | bytes | None) -> Any:
    """What `seal` put into ``token``.

    Raises:
        InvalidCursorError: It is damaged, wrongly signed, or of another version.
    """
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise InvalidCursorError(_DAMAGED) from None
    size = _SIGNATURE_BYTES if secret else 0
    signature, payload = raw[:size], raw[size:]
    if secret and not hmac.compare_digest(signature, _signature(payload, secret)):
        raise InvalidCursorError("The page cursor's signature is wrong; start again from the first page.")
    try:
        version, content = json.loads(payload)
    except (ValueError, TypeError, RecursionError):
        raise InvalidCursorError(_DAMAGED) from None
    if version != _VERSION:
        raise InvalidCursorError(_NOT_OURS)
    return content


def _signature(payload: bytes, secret: str | bytes | None) -> bytes:
    if not secret:
        return b""
    key = secret.encode() if isinstance(secret, str) else secret
    return hmac.new(key, payload, hashlib.sha256).digest()[:_SIGNATURE_BYTES]


def encode_value(value: Any) -> Any:
    """A column's value as a JSON scalar."""
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)  # UUID, Decimal


def _decode_value(shape: ModelShape, key: SortKey, value: Any) -> Any:
    if isinstance(value, list | dict):
        raise TypeError("a position is made of scalars")
    if value is None:
        if not key.nullable:
            raise ValueError("this column has no NULL")
        return None
    column_type = shape.types[key.name]
    if python_type_of(column_type) is bytes:
        return base64.b64decode(value, validate=True)
    members = getattr(column_type, "enum_class", None)
    if members is not None:
        return members[value]
    return coerce(shape, key.name, value)
