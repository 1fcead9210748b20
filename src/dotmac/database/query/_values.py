"""Data on its way into rows: checked, coerced, and stamped with tenant, key and author."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pydantic
from sqlalchemy import Uuid
from sqlalchemy import inspect as sa_inspect

from dotmac.database.errors import TenantMismatchError, ValidationError
from dotmac.database.models import uuid7
from dotmac.database.query._coercion import coerce
from dotmac.database.query._fields import unknown_field

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dotmac.database.models import ModelShape
    from dotmac.database.tenancy import Scope

DataLike = Mapping[str, Any] | pydantic.BaseModel
"""What ``create`` and its kin take: a mapping of fields, or a pydantic model (only the fields that were set)."""


def fields_of(shape: ModelShape, data: DataLike, *, relationships: bool = False) -> dict[str, Any]:
    """``data`` as a dictionary of checked and coerced fields.

    Raises:
        TypeError: ``data`` is neither a mapping nor a pydantic model.
        ValidationError: A field is unknown, or a value does not fit its column.
    """
    if isinstance(data, pydantic.BaseModel):
        data = data.model_dump(exclude_unset=True)
    elif not isinstance(data, Mapping):
        raise TypeError(
            f"{shape.name} data is a mapping of fields or a pydantic model, not {type(data).__name__}."
        )
    fields: dict[str, Any] = {}
    for name, value in data.items():
        attribute = shape.columns.get(name)
        if attribute is not None:
            fields[name] = value if _is_sql(value) else coerce(attribute, value, model=shape.name)
        elif relationships and name in shape.relationships:
            fields[name] = value
        else:
            raise unknown_field(shape, name)
    return fields


def _is_sql(value: Any) -> bool:
    return hasattr(value, "__clause_element__") or hasattr(value, "_annotations")


def insert_values(
    shape: ModelShape, scope: Scope, data: DataLike, user_id: str | None, *, relationships: bool = False
) -> dict[str, Any]:
    """The fields of a new row: ``data`` plus tenant, author, and a UUIDv7 where a UUID key has no default.

    Raises:
        ValidationError: As `fields_of`.
        TenantMismatchError: ``data`` names another tenant than ``scope``.
    """
    fields = fields_of(shape, data, relationships=relationships)
    _stamp_tenant(shape, scope, fields)
    if user_id is not None:
        for name in ("created_by", "updated_by"):
            if name in shape.columns:
                fields.setdefault(name, user_id)
    for attribute in shape.key:
        if fields.get(attribute.key) is None and _needs_uuid(attribute):
            fields[attribute.key] = uuid7()
    return fields


def _needs_uuid(attribute: Any) -> bool:
    column = attribute.property.columns[0]
    generated = column.default is not None or column.server_default is not None or column.foreign_keys
    return isinstance(column.type, Uuid) and not generated


def _stamp_tenant(shape: ModelShape, scope: Scope, fields: dict[str, Any]) -> None:
    if shape.tenant is None or scope.tenant_id is None:
        return
    name = shape.tenant.key
    bound = coerce(shape.tenant, str(scope.tenant_id), model=shape.name)
    given = fields.get(name)
    if given is not None and given != bound:
        raise TenantMismatchError(shape.name)
    fields[name] = bound


def update_values(
    shape: ModelShape, scope: Scope, data: DataLike, user_id: str | None, *, relationships: bool = False
) -> dict[str, Any]:
    """The fields an update sets: never the key, never another tenant.

    Raises:
        ValidationError: As `fields_of`; or the data would change the primary key, or sets nothing.
        TenantMismatchError: ``data`` names another tenant than ``scope``.
    """
    fields = fields_of(shape, data, relationships=relationships)
    if shape.tenant is not None and shape.tenant.key in fields:
        _stamp_tenant(shape, scope, fields)
        if scope.tenant_id is None:
            raise TenantMismatchError(shape.name)
        del fields[shape.tenant.key]
    if user_id is not None and "updated_by" in shape.columns:
        fields.setdefault("updated_by", user_id)
    return fields


def key_of(shape: ModelShape, entity_id: Any) -> tuple[Any, ...]:
    """A key as a tuple, coerced. A composite key is a tuple or a mapping; the tenant is not part of it.

    Raises:
        ValidationError: It has the wrong number of parts, or a part does not fit.
    """
    if isinstance(entity_id, Mapping):
        parts = [entity_id.get(attribute.key) for attribute in shape.key]
    elif isinstance(entity_id, tuple | list):
        parts = list(entity_id)
    else:
        parts = [entity_id]
    if len(parts) != len(shape.key) or None in parts:
        names = ", ".join(attribute.key for attribute in shape.key)
        raise ValidationError(f"A key of {shape.name} is ({names}), with no part missing.", model=shape.name)
    return tuple(
        coerce(attribute, part, model=shape.name) for attribute, part in zip(shape.key, parts, strict=True)
    )


def pop_key(shape: ModelShape, fields: dict[str, Any]) -> tuple[Any, ...]:
    """Take the key out of a row's fields.

    Raises:
        ValidationError: A part of the key is missing.
    """
    return key_of(shape, tuple(fields.pop(attribute.key, None) for attribute in shape.key))


def row_of(shape: ModelShape, entity: Any) -> dict[str, Any]:
    """The loaded columns of an entity, by attribute name."""
    loaded = sa_inspect(entity).dict
    return {name: loaded[name] for name in shape.columns if name in loaded}


def columns_set(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Names that occur in any row, in first-seen order."""
    return list(dict.fromkeys(name for row in rows for name in row))
