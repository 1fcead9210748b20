"""What a case works on: repositories of one kind, over one database, all of whose methods are awaited."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

from dotmac.database import (
    AsyncRepository,
    AsyncTenantRepository,
    BaseRepository,
    BaseTenantRepository,
    RequestContext,
    current_context,
)
from dotmac.database.tenancy import SESSION_KEY, switch


class Awaited:
    """A repository, sync or async, whose every method is awaited; streams come as lists."""

    def __init__(self, inner: Any, store: Store, context: RequestContext) -> None:
        self.inner = inner
        self.store = store
        self.context = context

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if not callable(method):
            return method

        async def call(*arguments: Any, **keywords: Any) -> Any:
            self.store.become(self.context)
            result = method(*arguments, **keywords)
            if inspect.isasyncgen(result):
                return [item async for item in result]
            if inspect.isgenerator(result):
                return list(result)
            return await finished(result)

        return call


async def finished(result: Any) -> Any:
    """``result``, awaited if it wants to be."""
    return await result if inspect.isawaitable(result) else result


@dataclass
class Store:
    """One session, and repositories on it.

    Attributes:
        backend: Which database, driver and repository.
        session: Sync or async.
    """

    backend: str
    session: Any
    is_async: bool

    @property
    def dialect(self) -> str:
        return self.session.get_bind().dialect.name

    @property
    def is_mysql(self) -> bool:
        return self.dialect in {"mysql", "mariadb"}

    def repo(self, model: type[Any], tenant_id: Any = None, **declared: Any) -> Awaited:
        """A repository; ``declared`` become attributes of its class."""
        if self.is_async:
            kind: type[Any] = AsyncRepository if tenant_id is None else AsyncTenantRepository
        else:
            kind = BaseRepository if tenant_id is None else BaseTenantRepository
        context = self.become(_context_for(tenant_id))
        return Awaited(type("Declared", (kind,), declared)(self.session, model, tenant_id), self, context)

    def become(self, context: RequestContext) -> RequestContext:
        """Have the one session serve whoever's turn it is; what it had loaded leaves it."""
        session = getattr(self.session, "sync_session", self.session)
        bound = session.info.get(SESSION_KEY)
        if bound is not None and (bound.tenant_id, bound.is_unscoped) == (
            context.tenant_id,
            context.is_unscoped,
        ):
            session.info[SESSION_KEY] = context
        else:
            switch(session, context)
        return context

    async def execute(self, statement: Any) -> Any:
        """Whatever the statement gives, with no repository between."""
        return await finished(self.session.execute(statement))

    async def scalars(self, statement: Any) -> list[Any]:
        return list((await self.execute(statement)).scalars())

    async def rollback(self) -> None:
        await finished(self.session.rollback())

    def forget(self) -> None:
        """Let the session forget what it has loaded."""
        self.session.expunge_all()


def _context_for(tenant_id: Any) -> RequestContext:
    here = current_context()
    if tenant_id is None or here.tenant_id is not None or here.is_unscoped:
        return here
    return replace(here, tenant_id=tenant_id)


@dataclass
class MockStore(Store):
    """The same over mocks that share one private database."""

    first: Any = None
    mock: Any = None

    def repo(self, model: type[Any], tenant_id: Any = None, **declared: Any) -> Awaited:
        kind = type("Declared", (self.mock,), declared)
        return Awaited(kind(model, tenant_id=tenant_id, beside=self.first), self, _context_for(tenant_id))
