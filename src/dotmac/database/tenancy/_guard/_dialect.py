"""A guarded twin of a dialect: the same state, with a compiler and an execution context that know the tenant.

SQLAlchemy keys its compiled statements by dialect, so guarded and unguarded SQL never meet in a cache.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from dotmac.database.tenancy._guard._compiler import GuardedCompiler
from dotmac.database.tenancy._guard._execution import GuardedExecution
from dotmac.database.tenancy._guard._watch import WatchedExecution

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect

_lock = threading.Lock()


def guarded(dialect: Dialect) -> Dialect:
    """The twin of ``dialect`` for work of one tenant, always the same one."""
    return _twin(dialect, "dotmac_guarded", GuardedCompiler, GuardedExecution)


def watched(dialect: Dialect) -> Dialect:
    """The twin of ``dialect`` for work across tenants, always the same one; only PostgreSQL needs one."""
    if dialect.name != "postgresql":
        return dialect
    return _twin(dialect, "dotmac_watched", None, WatchedExecution)


def _twin(dialect: Dialect, name: str, compiler: type[Any] | None, execution: type[Any]) -> Dialect:
    found = dialect.__dict__.get(name)
    if found is None:
        with _lock:
            make: Any = _twin_class  # mypy does not take classes for hashable
            state: Any = dialect
            kind = make(type(state), state.statement_compiler, state.execution_ctx_cls, compiler, execution)
            found = object.__new__(kind)
            found.__dict__ = dialect.__dict__  # one state, two faces
            found = dialect.__dict__.setdefault(name, found)
    return cast("Dialect", found)


@lru_cache(maxsize=64)
def _twin_class(
    kind: type[Any],
    compiler: type[Any],
    execution: type[Any],
    compiler_mixin: type[Any] | None,
    execution_mixin: type[Any],
) -> type[Any]:
    attributes: dict[str, Any] = {
        "execution_ctx_cls": type(execution.__name__, (execution_mixin, execution), {}),
        "supports_statement_cache": kind.supports_statement_cache,
        "__doc__": kind.__doc__,
    }
    if compiler_mixin is not None:
        attributes["statement_compiler"] = type(compiler.__name__, (compiler_mixin, compiler), {})
    return type(kind.__name__, (kind,), attributes)
