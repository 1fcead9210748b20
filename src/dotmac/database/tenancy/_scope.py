"""The rule of visibility: a tenant sees its own rows, and nobody sees deleted ones unless they ask."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dotmac.database.context import RequestContext, TenantId
from dotmac.database.errors import MissingTenantError, TenantMismatchError
from dotmac.database.tenancy._values import convert_tenant

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

    from dotmac.database.models import ModelShape


OWN_MARK = "dotmac_own"
"""Marks a comparison with the tenant as one that the session's guard makes as well, so that it is sent once."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What one piece of work may see.

    Attributes:
        tenant_id: The tenant; None where none is known, which hides every tenant model.
        include_deleted: True if soft-deleted rows are wanted too.
        unscoped: True for work across tenants on purpose: see `dotmac.database.unscoped`.
    """

    tenant_id: str | None = None
    include_deleted: bool = False
    unscoped: bool = False

    def including_deleted(self, include: bool = True) -> Scope:  # noqa: FBT001, FBT002 - reads as the claim it is
        """The same scope with or without deleted rows."""
        return self if include == self.include_deleted else replace(self, include_deleted=include)


def scope_for(shape: ModelShape, tenant_id: object | None, context: RequestContext) -> Scope:
    """The scope of work on a model: an explicit tenant, else the context's; fails closed.

    Raises:
        MissingTenantError: The model belongs to tenants, none is known, and the work is not unscoped.
        TenantMismatchError: The explicit tenant is not the one the context is bound to.
    """
    if tenant_id is not None:
        explicit = TenantId(tenant_id)
        if context.tenant_id is not None and context.tenant_id != explicit:
            raise TenantMismatchError(shape.name)
        return Scope(explicit)
    scope = Scope(context.tenant_id, unscoped=context.is_unscoped)
    require_tenant(shape, scope)
    return scope


def require_tenant(shape: ModelShape, scope: Scope) -> None:
    """Refuse a tenant model where no tenant is known, also one that is only reached through a relationship.

    Raises:
        MissingTenantError: Rows of ``shape`` belong to tenants, and ``scope`` names none.
    """
    if shape.tenant is not None and scope.tenant_id is None and not scope.unscoped:
        raise MissingTenantError(shape.name)


def visible(shape: ModelShape, scope: Scope) -> tuple[ColumnElement[bool], ...]:
    """The predicates every statement on ``shape`` carries under ``scope``.

    Raises:
        MissingTenantError: As `require_tenant`.
    """
    require_tenant(shape, scope)
    live = () if scope.include_deleted else _live(shape)
    if shape.tenant is None or scope.tenant_id is None:
        return live
    if isinstance(scope.tenant_id, str):
        return (_own(shape, scope.tenant_id), *live)
    return (_comparison(shape, scope.tenant_id), *live)  # a placeholder


def tenant_value(shape: ModelShape, tenant_id: Any) -> Any:
    """``tenant_id`` as the model's column holds it: text, an integer or a UUID.

    Raises:
        ValidationError: It is not one.
    """
    if not isinstance(tenant_id, str):  # a placeholder
        return tenant_id
    return convert_tenant(shape.types["tenant_id"], tenant_id, shape.name)


@lru_cache(maxsize=1024)
def _live(shape: ModelShape) -> tuple[ColumnElement[bool], ...]:
    return () if shape.deleted_at is None else (shape.deleted_at.is_(None),)


@lru_cache(maxsize=1024)
def _own(shape: ModelShape, tenant_id: str) -> ColumnElement[bool]:
    """The tenant is part of the key; building the comparison costs as much as reading a query's filters."""
    return _comparison(shape, tenant_id)


def _comparison(shape: ModelShape, tenant_id: Any) -> ColumnElement[bool]:
    own: ColumnElement[bool] = shape.tenant == tenant_value(shape, tenant_id)
    return own._annotate({OWN_MARK: True})  # noqa: SLF001 - how SQLAlchemy marks elements
