"""Repositories without state, and field mixins, for SQLModel users: one session per call, over the same core.

`CRUDRepository` works for SQLModel tables, declarative models and imperative mappings alike.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar, cast

from pydantic import ConfigDict
from sqlalchemy import inspect as sa_inspect
from sqlalchemy import true
from sqlalchemy.ext.hybrid import hybrid_property
from sqlmodel import Field, SQLModel

from dotmac.database.errors import ValidationError
from dotmac.database.models import UTCDateTime, utc_now, uuid7
from dotmac.database.models._audit import AuditMixin as _Audit
from dotmac.database.models._tenant import TENANT_TYPE
from dotmac.database.query import Execute, FilterOperator, QueryFilter, QueryOptions, Steps, as_filters
from dotmac.database.query._values import key_of
from dotmac.database.repository import AsyncRepository

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from dotmac.database.query import DataLike, Filter, FilterGroup, SortField

__all__ = [
    "AuditMixin",
    "BaseModel",
    "CRUDRepository",
    "SoftDeleteMixin",
    "TenantMixin",
    "TimestampMixin",
    "UUIDMixin",
]

M = TypeVar("M")

FiltersLike: TypeAlias = (
    "Mapping[str, Any] | QueryFilter | FilterGroup | Iterable[Filter | Mapping[str, Any]] | None"
)
"""A mapping of fields to the values they equal (a list: any of them), or `QueryFilter` and `FilterGroup` objects."""


class BaseModel(SQLModel):
    """The configuration that tables and their Create, Read and Update schemas share.

    Schemas can be read from rows (``UserRead.model_validate(user)``), and fields may be given by name or alias.
    Tables are in ``SQLModel.metadata``.

    Example::

        class User(BaseModel, UUIDMixin, TimestampMixin, table=True):
            __tablename__ = "users"
            username: str = Field(unique=True, max_length=50)
    """

    model_config = ConfigDict(from_attributes=True, populate_by_name=True)  # type: ignore[assignment] # SQLModel narrows it


class UUIDMixin(SQLModel):
    """``id``: a UUID version 7 as primary key, so that keys sort by time of creation."""

    id: uuid.UUID = Field(default_factory=uuid7, primary_key=True)


class TimestampMixin(SQLModel):
    """``created_at`` and ``updated_at``: timezone-aware, set by the server, fetched with the INSERT or UPDATE itself.

    They are None until the row is flushed.
    """

    __mapper_args__: ClassVar[dict[str, Any]] = {"eager_defaults": True}

    created_at: dt.datetime = Field(
        default=None, nullable=False, sa_type=UTCDateTime, sa_column_kwargs={"server_default": utc_now()}
    )
    updated_at: dt.datetime = Field(
        default=None,
        nullable=False,
        sa_type=UTCDateTime,
        sa_column_kwargs={"server_default": utc_now(), "onupdate": utc_now()},
    )


class SoftDeleteMixin(SQLModel):
    """``is_active`` and ``deleted_at``: same as `dotmac.database.SoftDeleteMixin`, as fields."""

    is_active: bool = Field(default=True, sa_column_kwargs={"server_default": true()})
    deleted_at: dt.datetime | None = Field(default=None, index=True, sa_type=UTCDateTime)

    is_deleted: ClassVar[hybrid_property[bool]] = hybrid_property(
        lambda self: self.deleted_at is not None,
        expr=lambda cls: cls.deleted_at.is_not(None),
    )

    def soft_delete(self) -> None:
        """Mark the row as deleted now; takes effect with the next flush."""
        self.is_active = False
        self.deleted_at = dt.datetime.now(dt.UTC)

    def restore(self) -> None:
        """Undo `soft_delete`; takes effect with the next flush."""
        self.is_active = True
        self.deleted_at = None


class TenantMixin(SQLModel):
    """``tenant_id``, indexed: same as `dotmac.database.TenantAwareMixin`, as a field. Repositories fill it in."""

    tenant_id: str = Field(
        default=None, max_length=255, index=True, nullable=False, sa_type=cast("type[Any]", TENANT_TYPE)
    )


def _default_of(name: str) -> dict[str, Any]:
    column = getattr(_Audit, name).column
    given = {"default": column.default, "onupdate": column.onupdate}
    return {key: value.arg for key, value in given.items() if value is not None}


class AuditMixin(SQLModel):
    """``created_by``, ``updated_by`` and ``request_id``: same as `dotmac.database.AuditMixin`, as fields."""

    created_by: str | None = Field(default=None, max_length=255, sa_column_kwargs=_default_of("created_by"))
    updated_by: str | None = Field(default=None, max_length=255, sa_column_kwargs=_default_of("updated_by"))
    request_id: str | None = Field(default=None, max_length=255, sa_column_kwargs=_default_of("request_id"))


class _Rows(AsyncRepository[M]):
    """An `AsyncRepository` that also fetches by offset and limit, and asks for a key's existence."""

    async def slice(self, options: QueryOptions, skip: int, limit: int) -> list[M]:
        """``limit`` rows after the first ``skip``, in total order; one statement."""
        return await self._run(self._slice(options, skip, limit))

    def _slice(self, options: QueryOptions, skip: int, limit: int) -> Steps[list[M]]:
        result = yield Execute(self._operations.list_statement(options).offset(skip).limit(limit))
        return list(result.scalars())

    async def has(self, entity_id: Any) -> bool:
        """True if the row with that key is visible; one statement."""
        parts = zip(self._shape.key, key_of(self._shape, entity_id), strict=True)
        return await self.exists([QueryFilter(field=attribute.key, value=part) for attribute, part in parts])

    def key_of_entity(self, entity: M) -> tuple[Any, ...]:
        """The key of an entity, without loading anything."""
        if not isinstance(entity, self.model_class):
            raise TypeError(f"db_obj is a {self._shape.name}, not a {type(entity).__name__}.")
        state = sa_inspect(entity)
        if state.identity is None:
            raise ValidationError(
                f"This {self._shape.name} is not in the database yet: create() or flush it before update().",
                model=self._shape.name,
            )
        by_name = dict(zip((part.key for part in self._shape.identity), state.identity, strict=True))
        return tuple(by_name[part.key] for part in self._shape.key)


class CRUDRepository(Generic[M]):
    """The rows of one model, for code that hands over the session with each call. Holds no state; flushes, never commits.

    Every call obeys the rules of `AsyncRepository`: the session's tenant, soft delete, authors, and its errors.
    ``session`` is an ``AsyncSession``, SQLAlchemy's or SQLModel's.

    Args:
        model: The model; not needed where a subclass sets ``model``.

    Raises:
        TypeError: There is no model.

    Example::

        class UserRepository(CRUDRepository[User]):
            def __init__(self) -> None:
                super().__init__(User)

            async def get_by_username(self, session: AsyncSession, username: str) -> User | None:
                return await self.on(session).get_by_field("username", username)

        user = await UserRepository().create(session, UserCreate(username="ada"))
    """

    model: ClassVar[type[Any] | None] = None

    def __init__(self, model: type[M] | None = None) -> None:
        model = model or self.model
        if model is None:
            raise TypeError(
                f"{type(self).__name__} needs a model: pass it to __init__, or set `model = …` on the class."
            )
        self.model_class: type[M] = model

    def on(self, session: AsyncSession) -> AsyncRepository[M]:
        """The whole `AsyncRepository` on ``session``: pages, cursors, upserts, restore and streams.

        Raises:
            MissingTenantError: The model belongs to tenants and the session is bound to none.
        """
        return self._rows(session)

    def _rows(self, session: AsyncSession) -> _Rows[M]:
        return _Rows(session, self.model_class)

    async def get(self, session: AsyncSession, id: Any, *, load: Sequence[str] = ()) -> M | None:  # noqa: A002
        """The row with that key, or None. ``load`` names relationships to load with it."""
        return await self._rows(session).get_by_id(id, load=load)

    async def get_multi(
        self,
        session: AsyncSession,
        skip: int = 0,
        limit: int = 100,
        filters: FiltersLike = None,
        *,
        sorts: Sequence[SortField | Mapping[str, Any]] = (),
        load: Sequence[str] = (),
    ) -> list[M]:
        """At most ``limit`` matching rows after the first ``skip``; one statement.

        Args:
            session: The session.
            skip: Rows to leave out, from 0.
            limit: Rows at most, from 0.
            filters: Values that fields must equal, or `QueryFilter` objects.
            sorts: Order; the primary key is always appended, and is the order where there is no other.
            load: Relationships to load with the rows.

        Raises:
            ValueError: ``skip`` or ``limit`` is negative.
            ValidationError: A filter or sort does not fit the model.
        """
        if skip < 0 or limit < 0:
            raise ValueError(f"skip and limit start from 0; given were skip={skip}, limit={limit}.")
        options = QueryOptions(
            filters=_filters(filters), sorts=cast("tuple[SortField, ...]", tuple(sorts)), load=tuple(load)
        )
        return await self._rows(session).slice(options, skip, limit)

    async def create(self, session: AsyncSession, obj_in: DataLike) -> M:
        """A new row, flushed; one statement. See `AsyncRepository.create` for its errors."""
        return await self._rows(session).create(obj_in)

    async def update(self, session: AsyncSession, db_obj: M, obj_in: DataLike) -> M:
        """The row with the fields of ``obj_in`` changed, flushed; two statements. It is ``db_obj`` if the session holds that.

        Raises:
            TypeError: ``db_obj`` is of another model.
            ValidationError: ``db_obj`` is not in the database yet, or a field does not fit.
            EntityNotFoundError: The row is gone, deleted, or another tenant's.
            DuplicateEntityError: A unique constraint is violated; the transaction must be rolled back.
        """
        rows = self._rows(session)
        return await rows.update(rows.key_of_entity(db_obj), obj_in)

    async def delete(self, session: AsyncSession, id: Any, *, soft_delete: bool = True) -> bool:  # noqa: A002
        """True if the row was there and is deleted now: marked, where the model can be, else removed; two statements."""
        return await self._rows(session).delete(id, soft_delete=soft_delete)

    async def count(self, session: AsyncSession, filters: FiltersLike = None) -> int:
        """How many rows match; one statement."""
        return await self._rows(session).count(_filters(filters))

    async def exists(self, session: AsyncSession, id: Any) -> bool:  # noqa: A002
        """True if there is a row with that key; one statement."""
        return await self._rows(session).has(id)

    async def bulk_create(self, session: AsyncSession, objs_in: Iterable[DataLike]) -> list[M]:
        """New rows in the order given; one statement per about a thousand."""
        return await self._rows(session).bulk_create(objs_in)

    async def bulk_update(self, session: AsyncSession, updates: Iterable[DataLike]) -> int:
        """Change many rows, each to its own values: ``updates`` hold the key and the fields to set. How many were changed.

        One statement per some thousand rows with the same fields; keys that are not visible are left alone.
        """
        return await self._rows(session).bulk_update(updates)

    async def bulk_delete(
        self, session: AsyncSession, ids: Iterable[Any], *, soft_delete: bool = True
    ) -> int:
        """Delete the rows with these keys; how many there were. One statement per ten thousand."""
        return await self._rows(session).bulk_delete(ids, soft_delete=soft_delete)


def _filters(filters: FiltersLike) -> tuple[Filter, ...]:
    if isinstance(filters, Mapping):
        values = cast("Mapping[str, Any]", filters)
        return tuple(_equality(field, value) for field, value in values.items())
    return as_filters(filters)


def _equality(field: str, value: Any) -> QueryFilter:
    several = isinstance(value, list | tuple | set | frozenset)
    return QueryFilter(field=field, operator=FilterOperator.IN if several else FilterOperator.EQ, value=value)
