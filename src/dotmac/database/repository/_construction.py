"""What sync and async repositories have in common: a session, a model and a tenant, checked once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from dotmac.database.errors import MissingTenantError
from dotmac.database.models import ModelShape, across_tenants, describe
from dotmac.database.query import Operations, Policy
from dotmac.database.tenancy import bind_tenant, bound_context, scope_for

if TYPE_CHECKING:
    from collections.abc import Collection

M = TypeVar("M")


class RepositoryConstruction(Generic[M]):
    """The attributes of a repository; see `AsyncRepository`.

    Attributes:
        model: The model of a subclass, where it is not given on construction.
        filterable: Fields that may be filtered; None allows all.
        sortable: Fields that may be sorted; None allows all.
        cursor_secret: Key that signs page cursors; None leaves them unsigned.
    """

    model: ClassVar[type[Any] | None] = None
    filterable: ClassVar[Collection[str] | None] = None
    sortable: ClassVar[Collection[str] | None] = None
    cursor_secret: ClassVar[str | bytes | None] = None
    _wants_tenant: ClassVar[bool] = False

    _policy: ClassVar[Policy] = Policy()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._policy = Policy(_frozen(cls.filterable), _frozen(cls.sortable), cls.cursor_secret)

    def __init__(self, db: Any, model_class: type[M] | None = None, tenant_id: object | None = None) -> None:
        model_class = model_class or self.model
        if model_class is None:
            raise TypeError(
                f"{type(self).__name__} needs a model: pass model_class, or set `model = …` on the class."
            )
        self.db = db
        self.model_class: type[M] = model_class
        self._shape: ModelShape = describe(model_class)
        if self._shape.tenant is None and (self._wants_tenant or tenant_id is not None):
            raise TypeError(
                f"{self._shape.name} has no tenant_id column, so its rows cannot be divided by tenant: add "
                "TenantAwareMixin, or use a repository without a tenant."
            )
        scope = scope_for(self._shape, tenant_id, bound_context(db))
        if tenant_id is not None:
            bind_tenant(db, tenant_id)
        if scope.unscoped:
            self._shape = across_tenants(self._shape)
        if self._wants_tenant and scope.tenant_id is None:
            raise MissingTenantError(self._shape.name)
        self.tenant_id: str | None = scope.tenant_id if self._shape.tenant is not None else None
        session, mapper = getattr(db, "sync_session", db), self._shape.mapper
        self._operations: Operations[M] = Operations(
            self._shape,
            scope,
            self._policy,
            session,
            lambda: session.get_bind(mapper).dialect,
            lambda: bound_context(db),
        )

    def __repr__(self) -> str:
        """Model and tenant."""
        tenant = f", tenant_id={str(self.tenant_id)!r}" if self.tenant_id is not None else ""
        return f"{type(self).__name__}({self._shape.name}{tenant})"


def _frozen(names: Collection[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)
