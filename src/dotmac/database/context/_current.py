"""The context in force: bound by a block, inherited by the tasks it starts, gone when the block is left.

A contextvar alone has a hole: a block inside a generator stays in force for whoever consumes the generator, and cannot be
undone by whoever closes it elsewhere. Each binding therefore knows whether its block was left, and one that was is not
obeyed any more where it was entered. Tasks and threads that were started inside the block hold a copy, and keep it.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TYPE_CHECKING

from dotmac.database.context._request import RequestContext

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

_EMPTY = RequestContext()


class _Binding:
    """One entered block.

    Attributes:
        context: What it binds.
        token: Undoes it once, in the ``contextvars.Context`` it was made in and in no other; None for a copy.
        is_left: True once the block has ended.
    """

    __slots__ = ("context", "is_left", "token")

    def __init__(self, context: RequestContext) -> None:
        self.context = context
        self.token: Token[_Binding | None] | None = None
        self.is_left = False

    def undone(self) -> bool:
        """Whether this, the innermost binding, could be undone: it was made right here."""
        if self.token is None:
            return False
        try:
            _current.reset(self.token)
        except (ValueError, RuntimeError):  # made, or made and undone, in another Context: this one is a copy
            return False
        return True


_current: ContextVar[_Binding | None] = ContextVar("dotmac_database_context", default=None)


def current_context() -> RequestContext:
    """The context in force here; an empty one where none is bound."""
    binding = _current.get()
    while binding is not None and binding.is_left:
        if not binding.undone():
            # A task started inside the block outlives it, and keeps what it was started with.
            _current.set(_Binding(binding.context))
            return binding.context
        binding = _current.get()
    return _EMPTY if binding is None else binding.context


class _Block:
    """What `use_context` returns: binds on entry, restores on exit; entered once."""

    __slots__ = ("_binding", "_context")

    def __init__(self, context: RequestContext) -> None:
        self._context = context
        self._binding: _Binding | None = None

    def __enter__(self) -> RequestContext:
        if self._binding is not None:
            raise RuntimeError("This context block was entered before: make another with use_context().")
        self._binding = binding = _Binding(self._context)
        binding.token = _current.set(binding)
        return self._context

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        binding = self._binding
        if binding is None:
            raise RuntimeError("This context block was not entered.")
        binding.is_left = True
        innermost = _current.get()
        if innermost is binding:
            if binding.undone():
                return
        elif innermost is not None and innermost.context.tenant_id == binding.context.tenant_id:
            return
        if kind is None:
            raise RuntimeError(
                "A context block was left in another task or thread than it was entered in, or before a block inside "
                "it: what ran in between may have worked for another tenant. This happens when `with use_context(…)` "
                "stands around a `yield` of a generator: wrap the generator function in carry() instead."
            )


def use_context(context: RequestContext) -> AbstractContextManager[RequestContext]:
    """Bind ``context`` for the block; whatever was bound before is back afterwards, also after an error.

    Tasks and ``asyncio.to_thread`` started inside inherit it and keep it; for other threads and for generators there
    is `carry`.

    Raises:
        TypeError: ``context`` is no `RequestContext`.
        RuntimeError: On leaving: the block was left elsewhere than it was entered.
    """
    if not isinstance(context, RequestContext):
        raise TypeError(f"use_context() wants a RequestContext, not {type(context).__name__}.")
    return _Block(context)
