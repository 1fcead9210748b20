"""The declarative base: naming convention, abstract-by-default subclasses, table prefixes."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import Column, MetaData, PrimaryKeyConstraint, Table, Uuid
from sqlalchemy.orm import DeclarativeBase

from dotmac.database.models._identity import uuid7
from dotmac.database.models._types import UTCDateTime

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Declarative base of every model.

    - A subclass without ``__tablename__`` is abstract by itself.
    - `get_table_prefix` goes in front of ``__tablename__``.
    - A table that declares no primary key gets a UUIDv7 ``id``.
    - ``Mapped[datetime]`` is a timezone-aware `UTCDateTime`.

    Example:
        >>> class Billing(Base):
        ...     @classmethod
        ...     def get_table_prefix(cls) -> str:
        ...         return "billing_"
        >>> class Invoice(Billing):
        ...     __tablename__ = "invoices"
        >>> Invoice.__table__.name
        'billing_invoices'
    """

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: UTCDateTime(), uuid.UUID: Uuid()}

    @classmethod
    def get_table_prefix(cls) -> str:
        """What goes in front of ``__tablename__``; override it in an abstract base."""
        return ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if (
            "__abstract__" not in cls.__dict__
            and not _names_a_table(cls)
            and not _extends_a_mapped_class(cls)
        ):
            cls.__abstract__ = True
        name = _own_table_name(cls)
        if name is not None and not cls.__dict__.get("__abstract__"):
            cls.__tablename__ = cls.get_table_prefix() + name
        super().__init_subclass__(**kwargs)

    @classmethod
    def __table_cls__(cls, name: str, metadata: MetaData, *args: Any, **kwargs: Any) -> Table:
        if not any(_is_primary_key(argument) for argument in args):
            args = (Column("id", Uuid(), primary_key=True, default=uuid7), *args)
        return Table(name, metadata, *args, **kwargs)


def _is_primary_key(argument: Any) -> bool:
    return isinstance(argument, PrimaryKeyConstraint) or (
        isinstance(argument, Column) and argument.primary_key
    )


def _extends_a_mapped_class(cls: type) -> bool:
    return any("__mapper__" in ancestor.__dict__ for ancestor in cls.__mro__[1:])


def _names_a_table(cls: type) -> bool:
    # A mapped parent's __tablename__ is its own (single-table inheritance), a mixin's is for this class.
    return any(
        name in ancestor.__dict__
        for ancestor in cls.__mro__
        if "__mapper__" not in ancestor.__dict__
        for name in ("__tablename__", "__table__")
    )


def _own_table_name(cls: type) -> str | None:
    for ancestor in cls.__mro__:
        if "__mapper__" in ancestor.__dict__:
            return None
        name = ancestor.__dict__.get("__tablename__")
        if isinstance(name, str):
            return name
    return None
