"""Equal columns that a database spells differently: what Alembic's own comparison reports again after every revision."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.types import NUMERIC, Boolean

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Column
    from sqlalchemy.types import TypeEngine

_TRUTH: Final = {"true": "1", "false": "0"}


def compare_type(
    context: MigrationContext,
    _inspected_column: Column[Any],
    _metadata_column: Column[Any],
    inspected_type: TypeEngine[Any],
    metadata_type: TypeEngine[Any],
) -> bool | None:
    """False where the types are the same under another name, else None: Alembic decides.

    SQLite gives a type name it does not know (``UUID``, ``JSONB``) numeric affinity, and reports that.
    """
    if context.dialect.name != "sqlite" or type(inspected_type) is not NUMERIC:
        return None
    name = re.match(r"\w+", metadata_type.compile(context.dialect))
    known: Any = getattr(context.dialect, "ischema_names", {})
    return None if name is None or name[0].upper() in known else False


def compare_server_default(
    _context: MigrationContext,
    _inspected_column: Column[Any],
    metadata_column: Column[Any],
    inspected_default: str | None,
    _metadata_default: object,
    rendered_metadata_default: str | None,
) -> bool | None:
    """False where the defaults are the same in another spelling, else None: Alembic decides.

    MySQL has no booleans: ``DEFAULT true`` comes back as 1.
    """
    if not isinstance(metadata_column.type, Boolean):
        return None
    both = (inspected_default, rendered_metadata_default)
    if None in both:
        return None
    stored, declared = (
        _TRUTH.get(bare, bare) for bare in (str(value).strip("'()").lower() for value in both)
    )
    return False if stored == declared else None
