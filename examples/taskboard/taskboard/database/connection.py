"""The process's connection to its database, and the tenant that scripts work for."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from dotmac.database import AsyncDatabase, RequestContext, current_context, use_context, with_async_session

from taskboard.settings import get_database_settings, get_settings

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncSession


class TaskboardDatabase(AsyncDatabase):
    """An `AsyncDatabase` whose sessions work for ``TASKBOARD_TENANT`` where no tenant is bound.

    Without that variable a session outside any tenant sees no tenant's rows: it raises MissingTenantError.
    """

    def create_session(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A session that commits when the block ends well and rolls back when it does not."""
        return with_async_session(self._new_session)

    def _new_session(self) -> AsyncSession:
        context = current_context()
        if context.tenant_id is None and not context.is_unscoped:
            context = RequestContext(
                tenant_id=get_settings().tenant,
                user_id=context.user_id,
                request_id=context.request_id,
                client_ip=context.client_ip,
            )
        with use_context(context):
            return self.session_factory()


@lru_cache
def get_async_db_connection() -> TaskboardDatabase:
    """The process's database, from the settings; nothing connects before the first session is used."""
    return TaskboardDatabase(get_database_settings())


async def check_connection_health(timeout_seconds: float = 5) -> bool:
    """True when the database answers."""
    return await get_async_db_connection().check(timeout_seconds)
