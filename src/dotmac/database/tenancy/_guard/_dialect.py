"""A guarded twin of a dialect: the same state, with a compiler and an execution context that know the tenant.

SQLAlchemy keys its compiled statements by dialect, so guarded and unguarded SQL never meet in a cache.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from dotmac.database.tenancy._guard._compiler import GuardedCompiler
from dotmac.database.tenancy._guard._execution import GuardedExecution

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect

_lock = threading.Lock()


def guarded(dialect: Dialect) -> Dialect:
    """The twin of ``dialect``, always the same one; of a twin, itself."""
    if isinstance(dialect, _Guarded):
        return cast("Dialect", dialect)
    found = dialect.__dict__.get("dotmac_guarded")
    if found is None:
        with _lock:
            state: Any = dialect
            kind: Any = _twin_class(state.__class__, state.statement_compiler, state.execution_ctx_cls)
            found = object.__new__(kind)
            found.__dict__ = dialect.__dict__  # one state, two faces
            dialect.__dict__.setdefault("dotmac_guarded", found)
        found = dialect.__dict__["dotmac_guarded"]
    return cast("Dialect", found)


class _Guarded:
    """Marks twins."""


@lru_cache(maxsize=64)
def _twin_class(kind: type[Any], compiler: type[Any], execution: type[Any]) -> type[Any]:
    return type(
        kind.__name__,
        (_Guarded, kind),
        {
            "statement_compiler": type(compiler.__name__, (GuardedCompiler, compiler), {}),
            "execution_ctx_cls": type(execution.__name__, (GuardedExecution, execution), {}),
            "supports_statement_cache": kind.supports_statement_cache,
            # Defined here, so that sharing __dict__ cannot put the original's back.
            "__doc__": kind.__doc__,
        },
    )
