"""How column types are written into revisions: as plain SQLAlchemy types, so that old revisions never break.

A revision that imports an application's type changes meaning, or fails, when the application moves on.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Literal

from alembic.autogenerate import render
from sqlalchemy.types import TypeDecorator, TypeEngine

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from sqlalchemy.engine import Dialect


def render_item(type_: str, obj: Any, autogen_context: AutogenContext) -> str | Literal[False]:
    """Has the shape of Alembic's ``render_item`` hook: the text for a type, or False for Alembic's own rendering.

    A ``TypeDecorator`` (our UTC datetime and encrypted string, SQLModel's ``AutoString``, your own) becomes the type it
    is stored as on this database. Any other type that is not SQLAlchemy's own keeps its name, and its import is added
    to the revision.
    """
    if type_ != "type" or not isinstance(obj, TypeEngine):
        return False
    if isinstance(obj, TypeDecorator):
        stored = _stored_type(obj, autogen_context.dialect)
        if stored is not None:
            # Alembic has no public way to render a nested type; this is what its own ARRAY rendering calls.
            return render._repr_type(stored, autogen_context)  # noqa: SLF001
    module = type(obj).__module__
    if not module.startswith("sqlalchemy.") and autogen_context.opts.get("user_module_prefix") is None:
        autogen_context.imports.add(f"import {module}")
    return False


def _stored_type(decorator: TypeDecorator[Any], dialect: Dialect | None) -> TypeEngine[Any] | None:
    """The dialect-neutral type if it gives the same DDL, else the dialect's; None if neither can be imported."""
    generic: TypeEngine[Any] = decorator.impl_instance
    if dialect is None:
        return generic
    specific = decorator.load_dialect_impl(dialect)
    compiler = dialect.type_compiler_instance
    if compiler.process(generic) == compiler.process(specific):
        return generic
    dialects = importlib.import_module(f"sqlalchemy.dialects.{dialect.name}")
    return specific if hasattr(dialects, type(specific).__name__) else None
