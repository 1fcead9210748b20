"""Data on its way into rows: checked, coerced, and stamped with tenant, key and author."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pydantic
from sqlalchemy import Uuid

from dotmac.database.errors import TenantMismatchError, ValidationError
from dotmac.database.models import describe, uuid7
from dotmac.database.query._coercion import coerce, plain_values
from dotmac.database.query._fields import unknown_field
from dotmac.database.tenancy import tenant_value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dotmac.database.models import ModelShape
    from dotmac.database.tenancy import Scope

DataLike = Mapping[str, Any] | pydantic.BaseModel
"""What ``create`` and its kin take: a mapping of fields, or a pydantic model (only the fields that were set)."""


def new_entity(shape: ModelShape, values: Mapping[str, Any]) -> Any:
    """An entity with these values: what its constructor takes is passed to it, the rest is set afterwards."""
    accepted = _constructor_parameters(shape)
    if accepted is None:
        return shape.model(**values)
    entity = shape.model(**{name: value for name, value in values.items() if name in accepted})
    for name, value in values.items():
        if name not in accepted:
            setattr(entity, name, value)
    return entity


@lru_cache(maxsize=1024)
def _constructor_parameters(shape: ModelShape) -> frozenset[str] | None:
    """The keywords that a constructor of the application's own takes; None if it takes any, as the mapper's does."""
    parameters = inspect.signature(shape.model).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    keywords = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return frozenset(parameter.name for parameter in parameters if parameter.kind in keywords)


def fields_of(shape: ModelShape, data: DataLike, *, relationships: bool = False) -> dict[str, Any]:
    """``data`` as a dictionary of checked and coerced fields.

    Raises:
        TypeError: ``data`` is neither a mapping nor a pydantic model.
        ValidationError: A field is unknown, or a value does not fit its column.
    """
    fields = _mapping_of(shape, data)
    plain = plain_values(shape)
    for name, value in fields.items():
        known = plain.get(name)
        if known is None:
            if not relationships or name not in shape.relationships:
                raise unknown_field(shape, name)
        elif not known.accepts(value) and not is_sql(value):
            fields[name] = coerce(shape, name, value)
    return fields


def _mapping_of(shape: ModelShape, data: DataLike) -> dict[str, Any]:
    if isinstance(data, pydantic.BaseModel):
        return data.model_dump(exclude_unset=True)
    if not isinstance(data, Mapping):
        raise TypeError(
            f"{shape.name} data is a mapping of fields or a pydantic model, not {type(data).__name__}."
        )
    return dict(data)


def _fields_of_many(shape: ModelShape, items: Iterable[DataLike]) -> list[dict[str, Any]]:
    """Same as `fields_of` of each; where all rows have the same fields, a column is checked at once."""
    rows = [_mapping_of(shape, item) for item in items]
    names: set[str] = set(rows[0]) if rows else set()
    plain = plain_values(shape)
    if not names <= plain.keys() or any(row.keys() != names for row in rows):
        return [fields_of(shape, row) for row in rows]
    for name in names:
        if plain[name].accepts_all([row[name] for row in rows]):
            continue
        for row in rows:
            if not is_sql(row[name]):
                row[name] = coerce(shape, name, row[name])
    return rows


def is_sql(value: Any) -> bool:
    """True for an SQL expression, which the server computes."""
    return hasattr(value, "__clause_element__") or hasattr(value, "_annotations")


def insert_values(
    shape: ModelShape, scope: Scope, data: DataLike, user_id: str | None, *, relationships: bool = False
) -> dict[str, Any]:
    """The fields of a new row: ``data`` plus tenant, author, and a UUIDv7 where a UUID key has no default.

    Raises:
        ValidationError: As `fields_of`.
        TenantMismatchError: ``data`` names another tenant than ``scope``.
    """
    [fields] = _stamped(shape, scope, [fields_of(shape, data, relationships=relationships)], user_id)
    return fields


def insert_rows(
    shape: ModelShape, scope: Scope, items: Iterable[DataLike], user_id: str | None
) -> list[dict[str, Any]]:
    """Same as `insert_values` of each, cheaper."""
    return _stamped(shape, scope, _fields_of_many(shape, items), user_id)


def _stamped(
    shape: ModelShape, scope: Scope, rows: list[dict[str, Any]], user_id: str | None
) -> list[dict[str, Any]]:
    if shape.tenant is not None and scope.tenant_id is not None:
        for row in rows:
            _stamp_tenant(shape, scope, row)
    authors: list[str] = [
        name for name in ("created_by", "updated_by") if user_id is not None and name in shape.columns
    ]
    for name in authors:
        for row in rows:
            row.setdefault(name, user_id)
    for name in _keys_to_fill(shape):
        for row in rows:
            if row.get(name) is None:
                row[name] = uuid7()
    return rows


@lru_cache(maxsize=1024)
def _keys_to_fill(shape: ModelShape) -> tuple[str, ...]:
    """UUID keys that nobody else fills."""
    columns = [(name, shape.columns[name].property.columns[0]) for name in shape.key_names]
    return tuple(
        name
        for name, column in columns
        if isinstance(column.type, Uuid)
        and column.default is None
        and column.server_default is None
        and not column.foreign_keys
    )


def _stamp_tenant(shape: ModelShape, scope: Scope, fields: dict[str, Any]) -> None:
    if shape.tenant is None or scope.tenant_id is None:
        return
    name = "tenant_id"
    bound = tenant_value(shape, scope.tenant_id)
    given = fields.get(name)
    if given is not None and (is_sql(given) or given != bound):
        raise TenantMismatchError(shape.name)
    fields[name] = bound
    # A flush copies the keys of related entities, the tenant's among them, over the row's own.
    for relationship in shape.relationships & fields.keys():
        _require_same_tenant(shape, bound, fields[relationship])


def _require_same_tenant(shape: ModelShape, bound: Any, related: Any) -> None:
    if isinstance(related, Mapping):
        related = related.values()
    entities = related if isinstance(related, Collection) else [related]
    for entity in entities:
        if entity is None or describe(type(entity)).tenant is None:
            continue
        if entity.tenant_id is None:
            entity.tenant_id = bound
        elif entity.tenant_id != bound:
            raise TenantMismatchError(shape.name)


def update_values(
    shape: ModelShape, scope: Scope, data: DataLike, user_id: str | None, *, relationships: bool = False
) -> dict[str, Any]:
    """The fields an update sets: never the key, never another tenant.

    Raises:
        ValidationError: As `fields_of`; or the data would change the primary key, or sets nothing.
        TenantMismatchError: ``data`` names another tenant than ``scope``.
    """
    fields = fields_of(shape, data, relationships=relationships)
    if shape.tenant is not None and "tenant_id" in fields and "tenant_id" not in shape.key_names:
        _stamp_tenant(shape, scope, fields)
        if scope.tenant_id is None:
            raise TenantMismatchError(shape.name)
        del fields["tenant_id"]
    if user_id is not None and "updated_by" in shape.columns:
        fields.setdefault("updated_by", user_id)
    return fields


def key_of(shape: ModelShape, entity_id: Any) -> tuple[Any, ...]:
    """A key as a tuple, coerced. A composite key is a tuple or a mapping; the tenant is part of it only across tenants.

    Raises:
        ValidationError: It has the wrong number of parts, or a part does not fit.
    """
    if isinstance(entity_id, Mapping):
        parts = [entity_id.get(name) for name in shape.key_names]
    elif isinstance(entity_id, tuple | list):
        parts = list(entity_id)
    else:
        parts = [entity_id]
    if len(parts) != len(shape.key) or None in parts:
        names = ", ".join(shape.key_names)
        raise ValidationError(f"A key of {shape.name} is ({names}), with no part missing.", model=shape.name)
    return tuple(coerce(shape, name, part) for name, part in zip(shape.key_names, parts, strict=True))


def pop_key(shape: ModelShape, fields: dict[str, Any]) -> tuple[Any, ...]:
    """Take the key out of a row's fields.

    Raises:
        ValidationError: A part of the key is missing.
    """
    return key_of(shape, tuple(fields.pop(name, None) for name in shape.key_names))


def key_in_identity(shape: ModelShape, identity: tuple[Any, ...]) -> tuple[Any, ...]:
    """The key in the identity of a persistent entity, which is known also where its attributes are expired."""
    return tuple(
        part for name, part in zip(shape.identity_names, identity, strict=True) if name in shape.key_names
    )
