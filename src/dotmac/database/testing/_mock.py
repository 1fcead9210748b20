"""Repositories without a database to set up: the real operations over a private SQLite in memory.

Nothing is imitated: statements, filters, constraints and pages are those of the real repositories, so a mock cannot
disagree with them in anything but what SQLite itself does differently.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sqlalchemy import Uuid

from dotmac.database.context import RequestContext, TenantId, current_context
from dotmac.database.query import Flush
from dotmac.database.query._values import insert_values, new_entity
from dotmac.database.repository import AsyncRepository, BaseRepository
from dotmac.database.repository._drive import drive
from dotmac.database.tenancy import Scope, bound_context
from dotmac.database.testing._mock_database import MockDatabase, at_once

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable
    from types import TracebackType

    from dotmac.database.models import ModelShape
    from dotmac.database.query import DataLike, Steps

M = TypeVar("M")
R = TypeVar("R")


class MockRepository(BaseRepository[M]):
    """A `BaseRepository` with a private database in memory: for unit tests of code that takes a repository.

    It behaves as the real one, down to constraints, tenants, NULLs, page cursors and the rollback that an error of the
    database asks for (``mock.db.rollback()`` goes back to the last commit, `add_mock_data` or making of a mock).
    A model that SQLite cannot hold, or an operator that it has not, is refused.

    Args:
        model_class: The model; not needed where a subclass sets ``model``.
        tenant_id: The tenant; by default the one of the `RequestContext`.
        beside: Another mock whose database this one shares, for models that refer to each other.

    Raises:
        ConfigurationError: SQLite cannot hold the model's table.
        MissingTenantError: The model belongs to tenants and none is known.

    Example::

        users = MockRepository(User)
        users.add_mock_data([{"name": "Ada"}])
        tasks = MockRepository(Task, beside=users)

    A repository class of your own is mocked together with its methods::

        class MockUserRepository(MockRepository[User], UserRepository): ...
    """

    def __init__(
        self,
        model_class: type[M] | None = None,
        tenant_id: object | None = None,
        *,
        beside: MockRepository[Any] | None = None,
    ) -> None:
        self._database: MockDatabase = (
            beside._database if beside is not None else MockDatabase(is_async=False)  # noqa: SLF001 - one of us
        )
        self._context = self._database.become(_context_for(tenant_id))
        super().__init__(self._database.session, model_class, tenant_id)
        self._database.add(self.model_class)

    def _run(self, steps: Steps[R]) -> R:
        self._database.become(self._context)
        return super()._run(steps)

    def add_mock_data(self, rows: Iterable[DataLike]) -> builtins.list[M]:
        """Put rows in, as if they had always been there (committed); the entities, in order.

        A row may name another tenant than the repository's: it is then that tenant's, and this repository does not see it.
        For a UUID key an integer ``n`` is short for ``uuid.UUID(int=n)``.

        Raises:
            ValidationError: A field is unknown or does not fit.
            ConstraintViolationError: A constraint is violated; nothing was put in.
        """
        return _put_in(self._database.serving(self._context), self._shape, self._operations.scope, rows)

    def close(self) -> None:
        """Give the memory back, also for mocks beside this one. Otherwise that happens when the last of them is gone."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncMockRepository(AsyncRepository[M]):
    """Same as `MockRepository`, with `AsyncRepository`'s methods; needs no async driver.

    A lazy load outside ``await`` raises ``MissingGreenlet``, as on a real ``AsyncSession``.
    """

    def __init__(
        self,
        model_class: type[M] | None = None,
        tenant_id: object | None = None,
        *,
        beside: AsyncMockRepository[Any] | None = None,
    ) -> None:
        self._database: MockDatabase = (
            beside._database if beside is not None else MockDatabase(is_async=True)  # noqa: SLF001 - one of us
        )
        self._context = self._database.become(_context_for(tenant_id))
        super().__init__(self._database.async_session, model_class, tenant_id)
        at_once(lambda: self._database.add(self.model_class))

    async def _run(self, steps: Steps[R]) -> R:
        self._database.become(self._context)
        return await super()._run(steps)

    def add_mock_data(self, rows: Iterable[DataLike]) -> builtins.list[M]:
        """Same as `MockRepository.add_mock_data`; blocking here too, so that any fixture can call it."""
        return at_once(
            lambda: _put_in(self._database.serving(self._context), self._shape, self._operations.scope, rows)
        )

    def close(self) -> None:
        """Same as `MockRepository.close`."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _context_for(tenant_id: object | None) -> RequestContext:
    here = current_context()
    if tenant_id is None or here.tenant_id is not None or here.is_unscoped:
        return here
    return replace(here, tenant_id=TenantId(tenant_id))


def _put_in(database: MockDatabase, shape: ModelShape, scope: Scope, rows: Iterable[DataLike]) -> list[Any]:
    session = database.session
    own = bound_context(session)
    entities = [_entity(shape, scope, row) for row in rows]

    def steps(tenant: object) -> Steps[None]:
        # A session serves one tenant; the repository's own comes last, so that its entities stay in the session.
        database.become(
            own if tenant is None or tenant == own.tenant_id else replace(own, tenant_id=str(tenant))
        )
        session.add_all(entity for entity in entities if _tenant_of(shape, entity) == tenant)
        yield Flush()

    tenants = {_tenant_of(shape, entity) for entity in entities}
    try:
        for tenant in sorted(tenants, key=lambda tenant: (tenant == own.tenant_id, str(tenant))):
            drive(session, steps(tenant), shape)
    except BaseException:
        session.rollback()
        raise
    finally:
        database.become(own)
    session.commit()
    return entities


def _tenant_of(shape: ModelShape, entity: Any) -> object:
    return None if shape.tenant is None else entity.__dict__.get(shape.tenant.key)


def _entity(shape: ModelShape, scope: Scope, row: DataLike) -> Any:
    if isinstance(row, Mapping):
        fields = dict(row)
        for part in shape.key:
            value = fields.get(part.key)
            if type(value) is int and value >= 0 and isinstance(part.type, Uuid):
                fields[part.key] = uuid.UUID(int=value)
        tenant = fields.get(shape.tenant.key) if shape.tenant is not None else None
        if tenant is not None:
            scope = Scope(str(tenant))
        row = fields
    return new_entity(shape, insert_values(shape, scope, row, None, relationships=True))
