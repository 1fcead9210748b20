"""Models of every shape that attacks are tried on; what is unsafe about some is so on purpose."""

from __future__ import annotations

import uuid  # noqa: TC003 - the mapper evaluates annotations
from typing import Any

from sqlalchemy import Column, ForeignKey, Integer, String, Table
from sqlalchemy.orm import Mapped, mapped_column, registry, relationship

from dotmac.database import (
    Base,
    BaseModel,
    TenantAwareMixin,
    TenantModel,
    tenant_foreign_key,
    tenant_unique,
)
from dotmac.database.tenancy import tenancy_of


class Attacked(Base):
    metadata = Base.metadata.__class__(naming_convention=Base.metadata.naming_convention)

    @classmethod
    def get_table_prefix(cls):
        return "attacked_"


class Notebook(Attacked, TenantModel):
    __tablename__ = "notebooks"
    __table_args__ = (tenant_unique("title"),)

    title: Mapped[str] = mapped_column(String(100))
    notes: Mapped[list[Note]] = relationship(lambda: Note, back_populates="notebook")


class Note(Attacked, TenantModel):
    """The recommended shape: every key carries the tenant."""

    __tablename__ = "notes"
    __table_args__ = (tenant_foreign_key("notebook_id", "attacked_notebooks", ondelete="CASCADE"),)

    body: Mapped[str] = mapped_column(String(100))
    notebook_id: Mapped[uuid.UUID]
    notebook: Mapped[Notebook] = relationship(lambda: Notebook, back_populates="notes")


class Country(Attacked, BaseModel):
    """Shared by all tenants, and leads to rows of each."""

    __tablename__ = "countries"

    name: Mapped[str] = mapped_column(String(100))
    boards: Mapped[list[Board]] = relationship(lambda: Board, back_populates="country")


class Board(Attacked, BaseModel, TenantAwareMixin):
    __tablename__ = "boards"

    title: Mapped[str] = mapped_column(String(100))
    country_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("attacked_countries.id"))
    country: Mapped[Country | None] = relationship(lambda: Country, back_populates="boards")
    tickets: Mapped[list[Ticket]] = relationship(lambda: Ticket, back_populates="board", lazy="selectin")


ticket_labels = Table(
    "attacked_ticket_labels",
    Attacked.metadata,
    Column("ticket_id", ForeignKey("attacked_tickets.id"), primary_key=True),
    Column("label_id", ForeignKey("attacked_labels.id"), primary_key=True),
)


class Label(Attacked, BaseModel, TenantAwareMixin):
    __tablename__ = "labels"

    name: Mapped[str] = mapped_column(String(100))


class Ticket(Attacked, BaseModel, TenantAwareMixin):
    """Plain keys: nothing but the guard and the server keep its references within the tenant."""

    __tablename__ = "tickets"

    subject: Mapped[str] = mapped_column(String(100))
    board_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("attacked_boards.id"))
    parent_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("attacked_tickets.id", ondelete="CASCADE"))
    board: Mapped[Board | None] = relationship(lambda: Board, back_populates="tickets", lazy="joined")
    parent: Mapped[Ticket | None] = relationship(
        lambda: Ticket, remote_side=lambda: Ticket.id, back_populates="children"
    )
    children: Mapped[list[Ticket]] = relationship(lambda: Ticket, back_populates="parent")
    labels: Mapped[list[Label]] = relationship(lambda: Label, secondary=ticket_labels)
    attachments: Mapped[list[Attachment]] = relationship(lambda: Attachment, back_populates="ticket")


class Attachment(Attacked, BaseModel):
    """No tenant column: a row is whose ticket's it hangs on."""

    __tablename__ = "attachments"

    text: Mapped[str] = mapped_column(String(100))
    ticket_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("attacked_tickets.id"))
    ticket: Mapped[Ticket] = relationship(lambda: Ticket, back_populates="attachments")


class Asset(Attacked, BaseModel, TenantAwareMixin):
    __tablename__ = "assets"
    __mapper_args__: dict[str, Any] = {  # noqa: RUF012 - as SQLAlchemy declares it
        "polymorphic_on": "kind",
        "polymorphic_identity": "asset",
        "eager_defaults": True,
    }

    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(100))


class Photo(Asset):
    """Joined inheritance: its own table has no tenant column."""

    __tablename__ = "photos"
    __mapper_args__: dict[str, Any] = {"polymorphic_identity": "photo"}  # noqa: RUF012 - likewise

    id: Mapped[uuid.UUID] = mapped_column(ForeignKey("attacked_assets.id"), primary_key=True)
    caption: Mapped[str] = mapped_column(String(100))


counters = Table(
    "attacked_counters",
    Attacked.metadata,
    Column("id", Integer, primary_key=True),
    Column("organisation", String(100), nullable=False, index=True),
    Column("label", String(100), nullable=False),
)


class Counter:
    """An imperative mapping, whose table calls the tenant otherwise."""

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)


registry(metadata=Attacked.metadata).map_imperatively(
    Counter, counters, properties={"tenant_id": counters.c.organisation}
)
assert tenancy_of(counters).column is counters.c.organisation

MODELS = (Note, Notebook, Ticket, Board, Attachment, Photo, Counter)
FEW_MODELS = (Note, Ticket, Photo)
