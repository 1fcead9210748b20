"""Repositories over an ``AsyncSession``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from dotmac.database.errors import EntityNotFoundError
from dotmac.database.query import as_filters, key_of
from dotmac.database.repository._construction import RepositoryConstruction
from dotmac.database.repository._drive import drive_async

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from dotmac.database.caching import EntityCache, EntityReader, SmartCache
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


class AsyncRepository(RepositoryConstruction[M]):
    """The rows of one model, as a collection. Flushes, never commits: that is the session's business.

    Every method sees and writes only rows of the repository's tenant, and rows that are not soft-deleted (unless asked).
    A subclass may set ``model``, and may declare which fields callers may filter and sort by (``filterable``,
    ``sortable``) and a key that signs page cursors (``cursor_secret``).

    Args:
        db: The session.
        model_class: The model; not needed where the subclass sets ``model``.
        tenant_id: The tenant; by default the one of the session's `RequestContext`.
        cache: Where rows are read through by key and by unique field. An `EntityCache`, or a `SmartCache` whose options
            one is made with.

    Raises:
        TypeError: ``model_class`` is not a mapped class, or cannot be cached.
        MissingTenantError: The model belongs to tenants and none is known.

    Example::

        users = AsyncRepository(session, User)
        user = await users.create({"email": "ada@example.com"})
        page = await users.list_paginated({"sorts": [{"field": "email"}]})
    """

    db: AsyncSession

    def __init__(
        self,
        db: Any,
        model_class: type[M] | None = None,
        tenant_id: object | None = None,
        *,
        cache: SmartCache | EntityCache | None = None,
    ) -> None:
        super().__init__(db, model_class, tenant_id)
        self._rows: EntityReader[M] | None = None if cache is None else self._through(cache)

    def _through(self, cache: SmartCache | EntityCache) -> EntityReader[M]:
        from dotmac.database.caching import EntityCache, EntityReader  # noqa: PLC0415 - an extra

        scope = self._operations.scope
        return EntityReader(
            EntityCache.of(cache, self.model_class),
            self.db.sync_session,
            scope.tenant_id,
            is_unscoped=scope.unscoped,
        )

    async def _run(self, steps: Steps[R]) -> R:
        return await drive_async(self.db, steps, self._shape)

    async def create(self, data: DataLike, user_id: str | None = None) -> M:
        """A new row, flushed; one statement.

        Args:
            data: Fields by name, or a pydantic model (only the fields that were set).
            user_id: Goes to ``created_by`` and ``updated_by``; by default the context's user.

        Raises:
            ValidationError: A field is unknown or does not fit.
            DuplicateEntityError: A unique constraint is violated; the transaction must be rolled back.
            ConstraintViolationError: Another constraint is violated; likewise.
            TenantMismatchError: The data names another tenant.
        """
        return await self._run(self._operations.create(data, user_id))

    async def get_by_id(
        self, entity_id: Any, include_deleted: bool = False, *, load: Sequence[str] = ()
    ) -> M | None:
        """The row with that key, or None. ``load`` names relationships to load with it."""

        async def read() -> M | None:
            return await self._run(
                self._operations.get_by_id(entity_id, include_deleted=include_deleted, load=load)
            )

        if self._rows is None or load:
            return await read()
        return await self._rows.by_key(key_of(self._shape, entity_id), read, include_deleted=include_deleted)

    async def get_by_id_or_raise(
        self, entity_id: Any, include_deleted: bool = False, *, load: Sequence[str] = ()
    ) -> M:
        """The row with that key.

        Raises:
            EntityNotFoundError: There is none, or it is not visible.
        """
        entity = await self.get_by_id(entity_id, include_deleted, load=load)
        if entity is None:
            raise EntityNotFoundError(self._shape.name, entity_id)
        return entity

    async def get_by_field(self, field: str, value: Any, include_deleted: bool = False) -> M | None:
        """The row whose ``field`` equals ``value``, or None; the first by key if there are several."""

        async def read() -> M | None:
            return await self._run(
                self._operations.get_by_field(field, value, include_deleted=include_deleted)
            )

        if self._rows is None or include_deleted:
            return await read()
        return await self._rows.by_field(field, value, read, self.get_by_id)

    async def update(self, entity_id: Any, data: DataLike, user_id: str | None = None) -> M:
        """The row with the fields of ``data`` changed, flushed; two statements, three where the server sets a value unasked.

        Raises:
            EntityNotFoundError: There is none, or it is not visible.
            ValidationError: A field is unknown, does not fit, or is the key.
            DuplicateEntityError: A unique constraint is violated; the transaction must be rolled back.
        """
        return await self._run(self._operations.update(entity_id, data, user_id))

    async def delete(self, entity_id: Any, soft_delete: bool = True, user_id: str | None = None) -> bool:
        """True if the row was there and is deleted now: marked, where the model can be, else removed; two statements.

        ``soft_delete=False`` removes the row in any case, also one that is soft-deleted already.
        """
        return await self._run(self._operations.delete(entity_id, soft_delete=soft_delete, user_id=user_id))

    async def restore(self, entity_id: Any, user_id: str | None = None) -> M:
        """The row, no longer soft-deleted; two statements.

        Raises:
            EntityNotFoundError: There is none, or it belongs to another tenant.
            ValidationError: The model has no soft delete.
        """
        return await self._run(self._operations.restore(entity_id, user_id))

    async def list(self, options: OptionsLike = None) -> builtins.list[M]:
        """All matching rows, or those of ``options.pagination``, in total order; one statement.

        Raises:
            ValidationError: A filter, sort or option does not fit.
        """
        return await self._run(self._operations.list(options))

    async def list_paginated(self, options: OptionsLike = None) -> PaginationResult[M]:
        """A page by number; one statement, or two where the total is wanted and the page does not tell it."""
        return await self._run(self._operations.list_paginated(options))

    async def cursor_paginate(self, options: OptionsLike = None) -> CursorPaginationResult[M]:
        """A page by cursor; one statement whose cost does not grow with the position.

        Raises:
            InvalidCursorError: The cursor is damaged, wrongly signed, or of another query, tenant or model.
        """
        return await self._run(self._operations.cursor_paginate(options))

    async def count(self, filters: Iterable[Filter] | None = None, include_deleted: bool = False) -> int:
        """How many rows match."""
        return await self._run(self._operations.count(as_filters(filters), include_deleted=include_deleted))

    async def exists(self, filters: Iterable[Filter] | None = None, include_deleted: bool = False) -> bool:
        """True if a row matches."""
        return await self._run(self._operations.exists(as_filters(filters), include_deleted=include_deleted))

    @overload
    async def bulk_create(
        self, items: Iterable[DataLike], user_id: str | None = None, *, returning: Literal[True] = True
    ) -> builtins.list[M]: ...
    @overload
    async def bulk_create(
        self, items: Iterable[DataLike], user_id: str | None = None, *, returning: Literal[False]
    ) -> int: ...
    async def bulk_create(
        self, items: Iterable[DataLike], user_id: str | None = None, *, returning: bool = True
    ) -> builtins.list[M] | int:
        """New rows, in one statement per about a thousand.

        Returns:
            The entities in the order given; with ``returning=False`` their number, which is much cheaper, and uses COPY
            on PostgreSQL from 500 rows on.

        Raises:
            ValidationError: Before anything is sent, if any row does not fit.
            DuplicateEntityError: A unique constraint is violated; the transaction must be rolled back.
        """
        if returning:
            return await self._run(self._operations.bulk_create(items, user_id))
        return await self._run(self._operations.bulk_insert(items, user_id))

    async def bulk_update(self, updates: Iterable[DataLike], user_id: str | None = None) -> int:
        """Change many rows, each to its own values; one statement per some thousand rows with the same fields (PostgreSQL).

        Elsewhere one statement takes 200 rows. Version counters stay as they are. What the session holds unflushed
        is flushed first, and loaded entities are read again.

        Args:
            updates: Each with the key and the fields to set.
            user_id: Goes to ``updated_by``.

        Returns:
            How many rows were changed; keys that are not visible are left alone.

        Raises:
            ValidationError: A key is missing or occurs twice, or a field does not fit; nothing is sent.
            QueryError: The model is spread over several tables (joined inheritance); so also for `bulk_delete`, `upsert`
                and `get_or_create`.
        """
        return await self._run(self._operations.bulk_update(updates, user_id))

    async def bulk_delete(
        self, entity_ids: Iterable[Any], soft_delete: bool = True, user_id: str | None = None
    ) -> int:
        """Delete the rows with these keys in one statement per ten thousand (thousand, if composite); how many there were.

        ORM cascades do not run; foreign keys' ``ON DELETE`` does, for rows that are removed.
        """
        return await self._run(
            self._operations.bulk_delete(entity_ids, soft_delete=soft_delete, user_id=user_id)
        )

    async def upsert(
        self,
        data: DataLike,
        match: Sequence[str] | None = None,
        update: Sequence[str] | None = None,
        user_id: str | None = None,
    ) -> M:
        """The row with these unique values: inserted, or updated if it exists. Atomic; one statement (two on MySQL).

        Args:
            data: The fields of the row.
            match: Fields of the unique constraint that decides; by default the only one that ``data`` covers.
            update: Fields to change in an existing row; by default all that ``data`` sets.
            user_id: Goes to ``updated_by``, and to ``created_by`` of a new row.

        Raises:
            ValidationError: No unique constraint fits, or a field does not.
            DuplicateEntityError: The row exists but is soft-deleted or belongs to another tenant.
        """
        return await self._run(self._operations.upsert(data, match, update, user_id))

    async def upsert_many(
        self,
        items: Iterable[DataLike],
        match: Sequence[str] | None = None,
        update: Sequence[str] | None = None,
        user_id: str | None = None,
    ) -> builtins.list[M]:
        """Same as `upsert` for many rows, in one statement per about a thousand; entities in the order given.

        Raises:
            ValidationError: Two rows have the same unique values.
        """
        return await self._run(self._operations.upsert_many(items, match, update, user_id))

    async def get_or_create(
        self,
        lookup: Mapping[str, Any],
        defaults: Mapping[str, Any] | None = None,
        user_id: str | None = None,
    ) -> tuple[M, bool]:
        """The row with these fields, and True if it was created just now. Atomic; one to three statements (SQLite: two to four).

        Args:
            lookup: Fields that a unique constraint covers.
            defaults: Further fields of a new row.
            user_id: Goes to ``created_by`` and ``updated_by`` of a new row.

        Raises:
            ValidationError: No unique constraint covers ``lookup``.
            DuplicateEntityError: A row with one of these unique values is soft-deleted, belongs to another tenant, or
                differs in the fields looked up.
        """
        return await self._run(self._operations.get_or_create(lookup, defaults, user_id))

    async def stream(self, options: OptionsLike = None, *, batch_size: int = 1000) -> AsyncIterator[M]:
        """All matching rows, ``batch_size`` at a time from a server-side cursor, in constant memory."""
        statement = self._operations.stream_statement(options)
        result = await self.db.stream_scalars(statement, execution_options={"yield_per": batch_size})
        try:
            async for entity in result:
                yield entity
        finally:
            await result.close()


class AsyncTenantRepository(AsyncRepository[M]):
    """An `AsyncRepository` that insists on a tenant: its model must have one, and one must be known."""

    _wants_tenant = True
