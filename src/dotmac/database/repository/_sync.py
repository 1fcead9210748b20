"""Repositories over a ``Session``: the blocking twins of the async ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from dotmac.database.query import as_filters
from dotmac.database.repository._construction import RepositoryConstruction
from dotmac.database.repository._drive import drive

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy.orm import Session

    from dotmac.database.query import (
        CursorPaginationResult,
        DataLike,
        Filter,
        OptionsLike,
        PaginationResult,
        Steps,
    )

M = TypeVar("M")
R = TypeVar("R")


class BaseRepository(RepositoryConstruction[M]):
    """The rows of one model, as a collection. Flushes, never commits: that is the session's business.

    Every method sees and writes only rows of the repository's tenant, and rows that are not soft-deleted (unless asked).
    A subclass may set ``model``, and may declare which fields callers may filter and sort by (``filterable``,
    ``sortable``) and a key that signs page cursors (``cursor_secret``).

    Args:
        db: The session.
        model_class: The model; not needed where the subclass sets ``model``.
        tenant_id: The tenant; by default the one of the session's `RequestContext`.

    Raises:
        TypeError: ``model_class`` is not a mapped class.
        MissingTenantError: The model belongs to tenants and none is known.

    Example::

        users = BaseRepository(session, User)
        user = users.create({"email": "ada@example.com"})
        page = users.list_paginated({"sorts": [{"field": "email"}]})
    """

    db: Session

    def _run(self, steps: Steps[R]) -> R:
        return drive(self.db, steps, self._shape)

    def create(self, data: DataLike, user_id: str | None = None) -> M:
        """Same as `AsyncRepository.create`, blocking."""
        return self._run(self._operations.create(data, user_id))

    def get_by_id(
        self, entity_id: Any, include_deleted: bool = False, *, load: Sequence[str] = ()
    ) -> M | None:
        """Same as `AsyncRepository.get_by_id`, blocking."""
        return self._run(self._operations.get_by_id(entity_id, include_deleted=include_deleted, load=load))

    def get_by_id_or_raise(
        self, entity_id: Any, include_deleted: bool = False, *, load: Sequence[str] = ()
    ) -> M:
        """Same as `AsyncRepository.get_by_id_or_raise`, blocking."""
        return self._run(self._operations.require(entity_id, include_deleted=include_deleted, load=load))

    def get_by_field(self, field: str, value: Any, include_deleted: bool = False) -> M | None:
        """Same as `AsyncRepository.get_by_field`, blocking."""
        return self._run(self._operations.get_by_field(field, value, include_deleted=include_deleted))

    def update(self, entity_id: Any, data: DataLike, user_id: str | None = None) -> M:
        """Same as `AsyncRepository.update`, blocking."""
        return self._run(self._operations.update(entity_id, data, user_id))

    def delete(self, entity_id: Any, soft_delete: bool = True, user_id: str | None = None) -> bool:
        """Same as `AsyncRepository.delete`, blocking."""
        return self._run(self._operations.delete(entity_id, soft_delete=soft_delete, user_id=user_id))

    def restore(self, entity_id: Any, user_id: str | None = None) -> M:
        """Same as `AsyncRepository.restore`, blocking."""
        return self._run(self._operations.restore(entity_id, user_id))

    def list(self, options: OptionsLike = None) -> builtins.list[M]:
        """Same as `AsyncRepository.list`, blocking."""
        return self._run(self._operations.list(options))

    def list_paginated(self, options: OptionsLike = None) -> PaginationResult[M]:
        """Same as `AsyncRepository.list_paginated`, blocking."""
        return self._run(self._operations.list_paginated(options))

    def cursor_paginate(self, options: OptionsLike = None) -> CursorPaginationResult[M]:
        """Same as `AsyncRepository.cursor_paginate`, blocking."""
        return self._run(self._operations.cursor_paginate(options))

    def count(self, filters: Iterable[Filter] | None = None, include_deleted: bool = False) -> int:
        """Same as `AsyncRepository.count`, blocking."""
        return self._run(self._operations.count(as_filters(filters), include_deleted=include_deleted))

    def exists(self, filters: Iterable[Filter] | None = None, include_deleted: bool = False) -> bool:
        """Same as `AsyncRepository.exists`, blocking."""
        return self._run(self._operations.exists(as_filters(filters), include_deleted=include_deleted))

    @overload
    def bulk_create(
        self, items: Iterable[DataLike], user_id: str | None = None, *, returning: Literal[True] = True
    ) -> builtins.list[M]: ...
    @overload
    def bulk_create(
        self, items: Iterable[DataLike], user_id: str | None = None, *, returning: Literal[False]
    ) -> int: ...
    def bulk_create(
        self, items: Iterable[DataLike], user_id: str | None = None, *, returning: bool = True
    ) -> builtins.list[M] | int:
        """Same as `AsyncRepository.bulk_create`, blocking."""
        if returning:
            return self._run(self._operations.bulk_create(items, user_id))
        return self._run(self._operations.bulk_insert(items, user_id))

    def bulk_update(self, updates: Iterable[DataLike], user_id: str | None = None) -> int:
        """Same as `AsyncRepository.bulk_update`, blocking."""
        return self._run(self._operations.bulk_update(updates, user_id))

    def bulk_delete(
        self, entity_ids: Iterable[Any], soft_delete: bool = True, user_id: str | None = None
    ) -> int:
        """Same as `AsyncRepository.bulk_delete`, blocking."""
        return self._run(self._operations.bulk_delete(entity_ids, soft_delete=soft_delete, user_id=user_id))

    def upsert(
        self,
        data: DataLike,
        match: Sequence[str] | None = None,
        update: Sequence[str] | None = None,
        user_id: str | None = None,
    ) -> M:
        """Same as `AsyncRepository.upsert`, blocking."""
        return self._run(self._operations.upsert(data, match, update, user_id))

    def upsert_many(
        self,
        items: Iterable[DataLike],
        match: Sequence[str] | None = None,
        update: Sequence[str] | None = None,
        user_id: str | None = None,
    ) -> builtins.list[M]:
        """Same as `AsyncRepository.upsert_many`, blocking."""
        return self._run(self._operations.upsert_many(items, match, update, user_id))

    def get_or_create(
        self,
        lookup: Mapping[str, Any],
        defaults: Mapping[str, Any] | None = None,
        user_id: str | None = None,
    ) -> tuple[M, bool]:
        """Same as `AsyncRepository.get_or_create`, blocking."""
        return self._run(self._operations.get_or_create(lookup, defaults, user_id))

    def stream(self, options: OptionsLike = None, *, batch_size: int = 1000) -> Iterator[M]:
        """Same as `AsyncRepository.stream`, blocking."""
        statement = self._operations.stream_statement(options)
        result = self.db.scalars(statement, execution_options={"yield_per": batch_size})
        try:
            yield from result
        finally:
            result.close()


class BaseTenantRepository(BaseRepository[M]):
    """A `BaseRepository` that insists on a tenant: its model must have one, and one must be known."""

    _wants_tenant = True
