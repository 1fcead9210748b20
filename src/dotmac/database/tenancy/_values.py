"""A tenant as its column holds it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dotmac.database.errors import ValidationError
from dotmac.database.models import python_type_of

if TYPE_CHECKING:
    from sqlalchemy.types import TypeEngine


@lru_cache(maxsize=4096)
def convert_tenant(column_type: TypeEngine[Any], tenant_id: str, model: str) -> Any:
    """``tenant_id`` as text, an integer or a UUID, whatever the column holds.

    Raises:
        ValidationError: It is not one, or not in the one form every such value has: ``007`` and ``7`` would be one tenant.
    """
    kind = python_type_of(column_type)
    if kind is None or kind is str:
        return tenant_id
    try:
        value = kind(tenant_id)
    except (TypeError, ValueError):
        value = None
    if value is None or str(value) != tenant_id.lower():
        raise ValidationError(
            f"{model}.tenant_id holds values of type {kind.__name__}; the tenant that is bound is no such value.",
            model=model,
            field="tenant_id",
        )
    return value
