"""The models that every repository is tried with; on metadata of their own, so that no other test meets them.

Relationships name their classes by lambda: a string would meet namesakes in other tests.
"""

# ruff: noqa: TC003 - SQLAlchemy evaluates the annotations
from __future__ import annotations

import datetime as dt
import enum
import uuid
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    CheckConstraint,
    Column,
    Double,
    Enum,
    ForeignKey,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.orm import Mapped, mapped_column, registry, relationship

from dotmac.database import (
    AuditMixin,
    Base,
    BaseModel,
    SoftDeleteMixin,
    TenantAwareMixin,
    TenantModel,
    live_unique,
    tenant_foreign_key,
    tenant_unique,
)
from dotmac.database.models import NAMING_CONVENTION

METADATA = MetaData(naming_convention=NAMING_CONVENTION)
ARRAY_METADATA = MetaData(naming_convention=NAMING_CONVENTION)


class Note(BaseModel):
    """A plain model."""

    __tablename__ = "behaviour_notes"
    metadata = METADATA

    title: Mapped[str] = mapped_column(String(100))
    body: Mapped[str | None] = mapped_column(Text())
    rank: Mapped[int | None]


class Account(SoftDeleteMixin, AuditMixin, BaseModel):
    """Soft delete, audit, uniqueness among the living and uniqueness among all."""

    __tablename__ = "behaviour_accounts"
    metadata = METADATA
    __table_args__ = (
        live_unique("email", name="uq_behaviour_accounts_email_live"),
        UniqueConstraint("handle", name="uq_behaviour_accounts_handle"),
        CheckConstraint("rank >= 0", name="rank_not_negative"),
    )

    email: Mapped[str] = mapped_column(String(100))
    handle: Mapped[str | None] = mapped_column(String(50))
    name: Mapped[str | None] = mapped_column(String(100))
    rank: Mapped[int] = mapped_column(default=0)


class Ticket(TenantAwareMixin, SoftDeleteMixin, AuditMixin, BaseModel):
    """Belongs to a tenant, with a key of its own."""

    __tablename__ = "behaviour_tickets"
    metadata = METADATA
    __table_args__ = (tenant_unique("code", name="uq_behaviour_tickets_code"),)

    code: Mapped[str] = mapped_column(String(50))
    title: Mapped[str | None] = mapped_column(String(100))
    points: Mapped[int | None]


class Invoice(SoftDeleteMixin, AuditMixin, TenantModel):
    """Belongs to a tenant, which is part of its key."""

    __tablename__ = "behaviour_invoices"
    metadata = METADATA
    __table_args__ = (tenant_unique("number", name="uq_behaviour_invoices_number"),)

    number: Mapped[str] = mapped_column(String(50))
    total: Mapped[Decimal | None] = mapped_column(Numeric(12, 2))
    lines: Mapped[list[Line]] = relationship(
        lambda: Line, back_populates="invoice", order_by=lambda: Line.text
    )


class Line(SoftDeleteMixin, TenantModel):
    """Part of an invoice of the same tenant."""

    __tablename__ = "behaviour_lines"
    metadata = METADATA
    __table_args__ = (tenant_foreign_key("invoice_id", "behaviour_invoices"),)

    invoice_id: Mapped[uuid.UUID]
    text: Mapped[str] = mapped_column(String(100))
    invoice: Mapped[Invoice] = relationship(lambda: Invoice, back_populates="lines")


class Author(SoftDeleteMixin, BaseModel):
    """One side of a relationship without tenants."""

    __tablename__ = "behaviour_authors"
    metadata = METADATA

    name: Mapped[str] = mapped_column(String(100))
    books: Mapped[list[Book]] = relationship(
        lambda: Book, back_populates="author", order_by=lambda: Book.title
    )


class Book(SoftDeleteMixin, BaseModel):
    """The other side."""

    __tablename__ = "behaviour_books"
    metadata = METADATA

    title: Mapped[str] = mapped_column(String(100))
    author_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("behaviour_authors.id"))
    author: Mapped[Author | None] = relationship(lambda: Author, back_populates="books")


class Counter(Base):
    """A key that the server counts up."""

    __tablename__ = "behaviour_counters"
    metadata = METADATA

    id: Mapped[int] = mapped_column(Integer(), primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    value: Mapped[int] = mapped_column(default=0)


class Seat(Base):
    """A composite key without a tenant."""

    __tablename__ = "behaviour_seats"
    metadata = METADATA

    row: Mapped[int] = mapped_column("seat_row", primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column("seat_number", primary_key=True, autoincrement=False)
    holder: Mapped[str | None] = mapped_column("seat_holder", String(50))


class Colour(enum.Enum):
    """Declared in an order that is not the alphabet's."""

    RED = "red"
    GREEN = "green"
    BLUE = "blue"


class Sample(BaseModel):
    """A column of each kind."""

    __tablename__ = "behaviour_samples"
    metadata = METADATA

    name: Mapped[str] = mapped_column(String(50))
    colour: Mapped[Colour | None] = mapped_column(Enum(Colour))
    price: Mapped[Decimal | None] = mapped_column(Numeric(12, 3))
    at: Mapped[dt.datetime | None]
    day: Mapped[dt.date | None]
    ref: Mapped[uuid.UUID | None]
    flag: Mapped[bool | None]
    size: Mapped[int | None]
    weight: Mapped[float | None] = mapped_column(Double())  # FLOAT is half as exact on MySQL
    data: Mapped[Any | None] = mapped_column(JSON())
    words: Mapped[str | None] = mapped_column(Text())


class Tagged(BaseModel):
    """An array column: PostgreSQL's alone."""

    __tablename__ = "behaviour_tagged"
    metadata = ARRAY_METADATA

    name: Mapped[str] = mapped_column(String(50))
    tags: Mapped[list[str] | None] = mapped_column(ARRAY(String(50)))


class Gadget:
    """Knows nothing of SQLAlchemy."""

    def __init__(self, name: str, serial: str | None = None, **others: Any) -> None:
        self.name = name
        self.serial = serial
        for field, value in others.items():
            setattr(self, field, value)


_gadgets = Table(
    "behaviour_gadgets",
    METADATA,
    Column("id", Uuid(), primary_key=True),
    Column("gadget_name", String(50), nullable=False, key="name"),
    Column("serial", String(50), unique=True),
)
registry(metadata=METADATA).map_imperatively(Gadget, _gadgets)
