"""Queries for users."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dotmac.database import FilterOperator, QueryFilter
from sqlalchemy import func, select

from taskboard.database.models import Task, User
from taskboard.database.repositories.base import BaseRepository

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection

    from sqlalchemy.ext.asyncio import AsyncSession


class UserRepository(BaseRepository[User]):
    """The users of the session's tenant."""

    def __init__(self) -> None:
        super().__init__(User)

    async def get_by_username(self, session: AsyncSession, username: str) -> User | None:
        """The user of that name, or None."""
        return await self.on(session).get_by_field("username", username)

    async def username_exists(self, session: AsyncSession, username: str) -> bool:
        """True if a user has that name."""
        return await self.on(session).exists([QueryFilter(field="username", value=username)])

    async def get_user_with_tasks(self, session: AsyncSession, user_id: uuid.UUID) -> User | None:
        """The user with ``tasks`` loaded (those that are not deleted), or None; two statements."""
        return await self.get(session, user_id, load=("tasks",))

    async def get_users_with_task_counts(
        self, session: AsyncSession, limit: int = 100
    ) -> list[tuple[User, int]]:
        """Users by name, each with the number of tasks that are not deleted; one statement."""
        tenant_id = self.on(session).tenant_id
        task_count = (
            select(func.count())
            .where(
                Task.tenant_id == User.tenant_id,
                Task.user_id == User.id,
                Task.deleted_at.is_(None),
            )
            .correlate(User)
            .scalar_subquery()
        )
        found = await session.execute(
            select(User, task_count).where(User.tenant_id == tenant_id).order_by(User.username).limit(limit)
        )
        return [(user, count) for user, count in found]

    async def ids_by_username(
        self, session: AsyncSession, usernames: Collection[str]
    ) -> dict[str, uuid.UUID]:
        """The ids of those users that exist, by name; one statement."""
        named = QueryFilter(field="username", operator=FilterOperator.IN, value=list(usernames))
        return {user.username: user.id for user in await self.matching(session, [named])}
