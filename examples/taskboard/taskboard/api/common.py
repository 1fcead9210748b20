"""What the routes share: sessions, pages and the tenant that every route of data demands."""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar

from dotmac.database.fastapi import get_db, get_read_session, tenant_from_request
from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession

from taskboard.database.models import Schema

T = TypeVar("T")

WriteSession = Annotated[AsyncSession, Depends(get_db)]
ReadSession = Annotated[AsyncSession, Depends(get_read_session)]
TenantRequired = Depends(tenant_from_request)

MAX_BULK_ROWS = 1000

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": description, "content": {"application/problem+json": {}}}
    for status, description in {
        400: "No tenant, or a malformed one",
        404: "No such row in this tenant",
        409: "A row with these values exists already",
        422: "The request does not fit",
    }.items()
}


class Page(Schema, Generic[T]):
    """A page by number."""

    items: list[T]
    total: int | None
    page: int
    pages: int | None
    per_page: int
    has_next: bool
    has_prev: bool
    total_is_exact: bool


class CursorPage(Schema, Generic[T]):
    """A page by cursor."""

    items: list[T]
    next_cursor: str | None
    prev_cursor: str | None
    has_next: bool
    has_prev: bool
    limit: int


class Changed(Schema):
    """How many rows a bulk operation changed."""

    changed: int
