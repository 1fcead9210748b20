"""Reading rows through a cache: what comes back is an entity of the session, as if it had been loaded.

The cache is gone round whenever its answer might differ from the database's: in a transaction that has written to the
table or reads from a snapshot, with changes that are not flushed, and across tenants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import UUID

from sqlalchemy import inspect as sa_inspect
from sqlalchemy.orm import make_transient_to_detached
from sqlalchemy.orm.attributes import set_committed_value

from dotmac.database.caching._entity_writes import writes_of
from dotmac.database.errors import ValidationError
from dotmac.database.query import coerce, is_unique

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sqlalchemy import Dialect
    from sqlalchemy.orm import Session

    from dotmac.database.caching._entities import EntityCache

M = TypeVar("M")
_NATURAL_TYPES = (str, int)
_LEVELS = frozenset({"READ COMMITTED", "READ UNCOMMITTED", "AUTOCOMMIT"})
_SCHEMA_PLACEMENT = "dotmac_placement"


class EntityReader(Generic[M]):
    """One repository's way through a cache.

    Args:
        cache: The rows.
        session: Where entities belong.
        tenant_id: Whose rows are read; None where they belong to no tenant, or to any.
        is_unscoped: True for work across tenants.
    """

    def __init__(
        self, cache: EntityCache, session: Session, tenant_id: str | None, *, is_unscoped: bool
    ) -> None:
        self._cache = cache
        self._session = session
        shape = cache.shape
        self._shape = shape
        self._is_across = is_unscoped and shape.tenant is not None
        self._tenant: str | None = None
        if shape.tenant is not None and tenant_id is not None:
            self._tenant = str(coerce(shape, shape.tenant.key, tenant_id))
        self._writes = writes_of(session)

    async def by_key(
        self, key: tuple[Any, ...], load: Callable[[], Awaitable[M | None]], *, include_deleted: bool
    ) -> M | None:
        """The row with that key; ``load`` reads it from the database."""
        text = self._cache.row_text(self._tenant, key) if self._may_read() else None
        if text is None:
            return await load()
        stored = await self._cache.get(text)
        if stored is not None and (entity := self._entity(stored, key)) is not None:
            return entity if include_deleted or self._is_live(entity) else None
        return await self._load(text, key, load)

    async def by_field(
        self,
        field: str,
        value: Any,
        load: Callable[[], Awaitable[M | None]],
        read: Callable[[Any], Awaitable[M | None]],
    ) -> M | None:
        """The row with a unique value; ``read`` reads one by its key, through the cache."""
        text = self._pointer(field, value) if self._may_read() else None
        if text is None:
            return await load()
        key = await self._cache.pointed(text)
        if key is not None and len(key) == len(self._shape.key_names):
            try:
                entity = await read(list(key))
            except ValidationError:  # the key's type has changed since
                entity = None
            # At most one row has the value, so that if this one has it, it is the one.
            if entity is not None and _same(getattr(entity, field), value):
                return entity
        entity = await load()
        if entity is not None and self._may_read() and _same(getattr(entity, field), value):
            await self._cache.point(text, [getattr(entity, name) for name in self._shape.key_names])
        return entity

    def _pointer(self, field: str, value: Any) -> str | None:
        shape = self._shape
        if field not in shape.columns or type(value) not in _NATURAL_TYPES or not is_unique(shape, field):
            return None
        text = self._cache.row_text(self._tenant, (field, value))
        return None if text is None else f"by:{text}"

    def _may_read(self) -> bool:
        session = self._session
        if self._is_across or not session._is_clean() or self._writes.has_touched(self._cache):  # noqa: SLF001 - public ones build lists
            return False
        if self._shape.tenant is None and session.info.get(_SCHEMA_PLACEMENT) is not None:
            return False  # nothing tells whether such a table is the tenant's own
        return self._sees_newest()

    def _sees_newest(self) -> bool:
        """True if each statement sees what was committed before it."""
        if self._writes.reads_snapshot:
            return False
        bind: Any = self._session.get_bind(self._shape.mapper)
        transaction = self._session.get_transaction()
        options: Mapping[str, Any] = bind.get_execution_options()
        dialect: Dialect = bind.dialect
        if transaction is not None and self._session.in_transaction():
            for connection in {entry[0] for entry in transaction._connections.values()}:  # noqa: SLF001 - no public way
                options = {**options, **connection.get_execution_options()}
        if options.get("schema_translate_map"):
            return False
        level = options.get("isolation_level") or dialect.default_isolation_level
        return level in _LEVELS

    async def _load(
        self, text: str, key: tuple[Any, ...], load: Callable[[], Awaitable[M | None]]
    ) -> M | None:
        if self._known(key) is not None:
            return await load()  # what the session has of it may be older than what the database has
        token = await self._cache.begin(text)
        if token is None:
            return await load()
        try:
            entity = await load()
        except BaseException:
            await self._cache.release(token)
            raise
        values = self._values(entity, key)
        if values is None:
            await self._cache.release(token)
        else:
            await self._cache.fill(token, values)
        return entity

    def _values(self, entity: Any, key: tuple[Any, ...]) -> dict[str, Any] | None:
        """What may be stored of it: only what was read as it is committed, under the key it was asked for."""
        if entity is None or not self._may_read():
            return None
        shape = self._shape
        if not all(
            _same(getattr(entity, name), part) for name, part in zip(shape.key_names, key, strict=True)
        ):
            return None
        if shape.tenant is not None and str(entity.__dict__.get(shape.tenant.key)) != self._tenant:
            return None
        return self._cache.columns_of(entity, self._dialect)

    def _entity(self, stored: Mapping[str, Any], key: tuple[Any, ...]) -> M | None:
        """The session's own entity, or one made of what is stored; None if the database has to be asked."""
        shape, session = self._shape, self._session
        values = self._cache.values_of(stored, self._dialect)
        if not all(_same(values.get(name), part) for name, part in zip(shape.key_names, key, strict=True)):
            return None
        if shape.tenant is not None and str(values.get(shape.tenant.key)) != self._tenant:
            return None
        identity = shape.mapper.identity_key_from_primary_key(
            tuple(values[name] for name in shape.identity_names)
        )
        existing = session.identity_map.get(identity)
        if existing is not None:
            return None if sa_inspect(existing).expired_attributes else existing
        entity: Any = shape.mapper.class_manager.new_instance()
        for name, value in values.items():
            set_committed_value(entity, name, value)
        make_transient_to_detached(entity)
        state = sa_inspect(entity)
        session.add(entity)
        # What is told of every entity that is loaded: reconstructors and mutable values wait for it.
        state.manager.dispatch.load(state, None)
        return entity  # type: ignore[no-any-return] # it is the model's

    def _known(self, key: tuple[Any, ...]) -> Any:
        """An entity of the session that may have this key."""
        shape = self._shape
        if "tenant_id" not in shape.identity_names or len(shape.identity_names) == len(key):
            return self._session.identity_map.get(shape.mapper.identity_key_from_primary_key(key))
        tenant = shape.tenant
        parts = dict(zip(shape.key_names, key, strict=True))
        if tenant is not None:
            parts[tenant.key] = coerce(shape, tenant.key, self._tenant)
        return self._session.identity_map.get(
            shape.mapper.identity_key_from_primary_key(tuple(parts[name] for name in shape.identity_names))
        )

    def _is_live(self, entity: Any) -> bool:
        deleted_at = self._shape.deleted_at
        return deleted_at is None or getattr(entity, deleted_at.key) is None

    @property
    def _dialect(self) -> Dialect:
        return self._session.get_bind(self._shape.mapper).dialect


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, UUID):  # drivers have classes of their own
        return isinstance(other, UUID) and one == other
    return type(one) is type(other) and bool(one == other)
