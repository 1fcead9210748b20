"""Rules for users: names are unique within a tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dotmac.database.errors import DuplicateEntityError, EntityNotFoundError

from taskboard.database.models import User
from taskboard.database.repositories import UserRepository

if TYPE_CHECKING:
    import uuid

    from sqlalchemy.ext.asyncio import AsyncSession

    from taskboard.database.models import UserCreate, UserUpdate


class UserService:
    """What can be done with users."""

    def __init__(self, users: UserRepository | None = None) -> None:
        self.users = users or UserRepository()

    async def create_user(self, session: AsyncSession, user_create: UserCreate) -> User:
        """A new user.

        Raises:
            DuplicateEntityError: The name is taken.
        """
        await self._require_free(session, user_create.username)
        return await self.users.create(session, user_create)

    async def rename(self, session: AsyncSession, user_id: uuid.UUID, user_update: UserUpdate) -> User:
        """The user with another name.

        Raises:
            EntityNotFoundError: There is no such user.
            DuplicateEntityError: The name is taken.
        """
        user = await self.get(session, user_id)
        if user_update.username is not None and user_update.username != user.username:
            await self._require_free(session, user_update.username)
        return await self.users.update(session, user, user_update)

    async def get(self, session: AsyncSession, user_id: uuid.UUID) -> User:
        """The user.

        Raises:
            EntityNotFoundError: There is no such user.
        """
        user = await self.users.get(session, user_id)
        if user is None:
            raise EntityNotFoundError(User.__name__, user_id)
        return user

    async def delete_user(self, session: AsyncSession, user_id: uuid.UUID) -> None:
        """Remove the user, and with it every task of theirs.

        Raises:
            EntityNotFoundError: There is no such user.
        """
        if not await self.users.delete(session, user_id):
            raise EntityNotFoundError(User.__name__, user_id)

    async def _require_free(self, session: AsyncSession, username: str) -> None:
        # Asked first for a clear answer; two requests at once are told apart by the constraint of the same name.
        if await self.users.username_exists(session, username):
            raise DuplicateEntityError(
                User.__name__, "uq_users_tenant_id_username", hint="Choose another username."
            )
