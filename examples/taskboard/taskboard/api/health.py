"""Whether the application and its database answer."""

from __future__ import annotations

from dotmac.database.fastapi import get_db
from fastapi import APIRouter
from sqlalchemy import text

router = APIRouter(tags=["health"])


@router.get("/health")
async def health() -> dict[str, str]:
    """200 when the database answers; otherwise the error's own status."""
    async with get_db() as session:
        await session.execute(text("SELECT 1"))
    return {"status": "ok"}
