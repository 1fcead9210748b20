"""The demonstration's tenants and their hundred thousand tasks, put in through the taskboard's repositories."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dotmac.database.context import RequestContext, use_context

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator

    from dotmac.database.engine import AsyncDatabase

TENANTS = {"acme": 50_000, "birch": 30_000, "cedar": 20_000}
STATUSES = ("PENDING", "IN_PROGRESS", "COMPLETED", "PENDING", "CANCELLED")
RARE_EVERY = 1000
RARE_WORD = "Zanzibar"
_USERS = 20
_ROWS_PER_TRANSACTION = 10_000
_SUBJECTS = ("invoice", "roof", "router", "contract", "release", "survey", "archive")


async def seed(database: AsyncDatabase) -> None:
    """Give each tenant its users and tasks; COPY, ten thousand rows a transaction."""
    from taskboard.database.repositories import (  # type: ignore[import-not-found] # noqa: PLC0415 - the template's package
        TaskRepository,
        UserRepository,
    )

    users, tasks = UserRepository(), TaskRepository()
    try:
        for tenant_id, count in TENANTS.items():
            with use_context(RequestContext(tenant_id=tenant_id, user_id="demo")):
                async with database.create_session() as session:
                    created = await users.bulk_create(
                        session, [{"username": f"user{number:02}"} for number in range(_USERS)]
                    )
                    owners = [user.id for user in created]
                for start in range(0, count, _ROWS_PER_TRANSACTION):
                    async with database.create_session() as session:
                        rows = _tasks(start, min(start + _ROWS_PER_TRANSACTION, count), owners)
                        await tasks.on(session).bulk_create(rows, returning=False)
    finally:
        await database.dispose()


def _tasks(start: int, end: int, owners: list[uuid.UUID]) -> Iterator[dict[str, Any]]:
    now = datetime.now(UTC)
    for number in range(start, end):
        status = STATUSES[number % len(STATUSES)]
        word = RARE_WORD if number % RARE_EVERY == 0 else _SUBJECTS[number % len(_SUBJECTS)]
        yield {
            "title": f"Check the {word}, number {number}",
            "status": status,
            "completed_at": now if status == "COMPLETED" else None,
            "user_id": owners[number % len(owners)],
        }
