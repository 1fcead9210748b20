"""The table that every contender reads and writes."""

from __future__ import annotations

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from dotmac.database import BaseModel


class Ticket(BaseModel):
    __tablename__ = "tickets"
    __table_args__ = (Index("ix_tickets_created_at_id", "created_at", "id"),)

    title: Mapped[str] = mapped_column(String(200))
    status: Mapped[str] = mapped_column(String(20), index=True)
    priority: Mapped[int]
    body: Mapped[str | None] = mapped_column(String(2000))


def row(number: int) -> dict[str, object]:
    """The fields of ticket ``number``."""
    return {
        "title": f"Ticket number {number}",
        "status": ("open", "pending", "closed")[number % 3],
        "priority": number % 5,
        "body": "What was seen, what was expected, and how to see it again. " * 2,
    }
