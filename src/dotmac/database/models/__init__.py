"""What rows look like: the declarative base, ready-made models, mixins, column types and constraints."""

from importlib import import_module

from dotmac.database.models._audit import AuditMixin
from dotmac.database.models._constraints import live_unique, tenant_foreign_key, tenant_unique
from dotmac.database.models._declarative import NAMING_CONVENTION, Base
from dotmac.database.models._identity import uuid7
from dotmac.database.models._model import BaseModel, TenantModel
from dotmac.database.models._python_types import inner_type, passes_on, python_type_of
from dotmac.database.models._shape import ModelShape, across_tenants, describe
from dotmac.database.models._soft_delete import SoftDeleteMixin
from dotmac.database.models._tenant import TenantAwareMixin
from dotmac.database.models._types import EncryptedString, UTCDateTime, utc_now

__all__ = [
    "NAMING_CONVENTION",
    "AuditMixin",
    "Base",
    "BaseModel",
    "EncryptedString",
    "ModelShape",
    "SoftDeleteMixin",
    "TenantAwareMixin",
    "TenantModel",
    "UTCDateTime",
    "across_tenants",
    "describe",
    "inner_type",
    "live_unique",
    "passes_on",
    "python_type_of",
    "tenant_foreign_key",
    "tenant_unique",
    "utc_now",
    "uuid7",
]

# The guard comes with the models it guards, whatever else is imported. By name: the one arrow that points up.
import_module("dotmac.database.tenancy")
