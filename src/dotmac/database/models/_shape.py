"""What a mapped class is made of, worked out once: key, tenant and soft-delete columns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.orm import InstrumentedAttribute
    from sqlalchemy.types import TypeEngine


@dataclass(frozen=True, slots=True, eq=False)
class ModelShape:
    """Facts about one mapped class, declarative, SQLModel or imperative alike.

    Attributes:
        model: The class.
        mapper: Its mapper.
        table: The table that rows are written to.
        name: The class's name, for messages.
        key: Attributes of the primary key, in order, without the tenant.
        key_names: Their names.
        identity: Attributes of the whole primary key, the tenant included, in the mapper's order.
        identity_names: Their names.
        tenant: The attribute that holds the tenant, or None if rows belong to no tenant.
        deleted_at: The attribute that marks soft-deleted rows, or None.
        columns: Every column attribute by name.
        types: Their types.
        relationships: Names of the relationships.
        joins_eagerly: True if some relationship is loaded by a join, which repeats rows.
    """

    model: type[Any]
    mapper: Mapper[Any]
    table: Table
    name: str
    key: tuple[InstrumentedAttribute[Any], ...]
    key_names: tuple[str, ...]
    identity: tuple[InstrumentedAttribute[Any], ...]
    identity_names: tuple[str, ...]
    tenant: InstrumentedAttribute[Any] | None
    deleted_at: InstrumentedAttribute[Any] | None
    columns: dict[str, InstrumentedAttribute[Any]] = field(repr=False)
    types: dict[str, TypeEngine[Any]] = field(repr=False)
    relationships: frozenset[str] = field(repr=False)
    joins_eagerly: bool = field(repr=False)


@lru_cache(maxsize=1024)
def across_tenants(shape: ModelShape) -> ModelShape:
    """The shape for work across tenants: keys name the tenant, without which they may fit several rows."""
    if shape.tenant is None or "tenant_id" not in shape.identity_names:
        return shape
    return replace(shape, key=shape.identity, key_names=shape.identity_names)


_shapes: dict[type[Any], ModelShape] = {}


def describe(model: type[Any]) -> ModelShape:
    """The shape of a mapped class; computed once per class.

    Raises:
        TypeError: ``model`` is not a mapped class.
    """
    shape = _shapes.get(model)
    if shape is None:
        shape = _shapes[model] = _describe(model, _mapper_of(model))
    return shape


def _mapper_of(model: Any) -> Mapper[Any]:
    try:
        mapper = sa_inspect(model)
    except NoInspectionAvailable:
        mapper = None
    if not isinstance(mapper, Mapper) or not isinstance(model, type):
        raise TypeError(f"{model!r} is not a mapped class: a repository needs a model with a table.")
    return mapper


def _describe(model: type[Any], mapper: Mapper[Any]) -> ModelShape:
    columns = {
        attribute.key: getattr(model, attribute.key)
        for attribute in mapper.column_attrs
        if isinstance(attribute.columns[0], Column)
    }
    scoped = getattr(model, "__tenant_scoped__", True)
    tenant = columns.get("tenant_id") if scoped else None
    identity_names = tuple(mapper.get_property_by_column(column).key for column in mapper.primary_key)
    key_names = tuple(name for name in identity_names if columns[name] is not tenant) or identity_names
    return ModelShape(
        model=model,
        mapper=mapper,
        table=mapper.local_table,  # type: ignore[arg-type] # a repository's model is mapped to a Table
        name=model.__name__,
        key=tuple(columns[name] for name in key_names),
        key_names=key_names,
        identity=tuple(columns[name] for name in identity_names),
        identity_names=identity_names,
        tenant=tenant,
        deleted_at=columns.get("deleted_at"),
        columns=columns,
        types={name: attribute.type for name, attribute in columns.items()},
        relationships=frozenset(mapper.relationships.keys()),
        joins_eagerly=any(part.lazy in {"joined", False} for part in mapper.relationships),
    )
