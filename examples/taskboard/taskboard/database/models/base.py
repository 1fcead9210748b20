"""What all models and schemas have in common."""

from __future__ import annotations

from typing import Any, ClassVar

import pydantic
from dotmac.database import TenantModel
from dotmac.database.models import NAMING_CONVENTION
from pydantic import ConfigDict, ValidationInfo, field_validator
from sqlalchemy import MetaData


class Model(TenantModel):
    """Base of every table: key ``(tenant_id, id)``, UUIDv7 ``id``, ``created_at`` and ``updated_at``."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Schema(pydantic.BaseModel):
    """Base of everything that goes in or out over HTTP; unknown fields are refused."""

    model_config = ConfigDict(from_attributes=True, extra="forbid")


class Patch(Schema):
    """Base of updates: fields left out stay as they are; null only where a column can be empty."""

    nullable: ClassVar[frozenset[str]] = frozenset()

    @field_validator("*")
    @classmethod
    def _no_null(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None and info.field_name not in cls.nullable:
            raise ValueError("must not be null; leave the field out to keep its value")
        return value
