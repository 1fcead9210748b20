"""Where a contextvar does not reach by itself: executors, raw threads, and generators that are consumed elsewhere."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from dotmac.database.context._current import current_context, use_context

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

    from dotmac.database.context._request import RequestContext

_P = ParamSpec("_P")
_R = TypeVar("_R")


def carry(function: Callable[_P, _R], context: RequestContext | None = None) -> Callable[_P, _R]:
    """The same function, which works under ``context`` wherever and whenever it is called; by default today's.

    For ``threading.Thread(target=carry(work))``, ``loop.run_in_executor(None, carry(work))``, callbacks and timers.
    Plain and async functions, generators and async generators stay what they are; each step of a generator runs under
    the context, and its consumer never does.

    Example:
        >>> from threading import Thread
        >>> with use_context(RequestContext(tenant_id="acme")):
        ...     thread = Thread(target=carry(lambda: print(current_context().tenant_id)))
        >>> thread.start(); thread.join()
        acme
    """
    bound = current_context() if context is None else context
    use_context(bound)  # a wrong argument is told here, not in some thread later
    target: Callable[..., Any] = function
    if inspect.isasyncgenfunction(function):

        @wraps(target)
        def carried(*arguments: Any, **keywords: Any) -> Any:
            return _AsyncSteps(bound, target(*arguments, **keywords))

    elif inspect.isgeneratorfunction(function):

        @wraps(target)
        def carried(*arguments: Any, **keywords: Any) -> Any:
            return _Steps(bound, target(*arguments, **keywords))

    elif inspect.iscoroutinefunction(function):

        @wraps(target)
        async def awaited(*arguments: Any, **keywords: Any) -> Any:
            with use_context(bound):
                return await target(*arguments, **keywords)

        return cast("Callable[_P, _R]", awaited)

    else:

        @wraps(target)
        def carried(*arguments: Any, **keywords: Any) -> Any:
            with use_context(bound):
                return target(*arguments, **keywords)

    return cast("Callable[_P, _R]", carried)


class ContextExecutor(ThreadPoolExecutor):
    """A ``ThreadPoolExecutor`` whose calls see the contextvars of whoever submitted them, as ``asyncio.to_thread``'s do.

    A plain one starts every call without a tenant; where threads inherit the context of their creator (an option of
    Python 3.14), it would even give the first caller's tenant to all later ones.

    Example:
        >>> with ContextExecutor(max_workers=1) as pool, use_context(RequestContext(tenant_id="acme")):
        ...     pool.submit(lambda: current_context().tenant_id).result()
        'acme'
    """

    def submit(self, fn: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_R]:
        """Same as ``ThreadPoolExecutor.submit``, under the context of this call."""
        run: Any = copy_context().run
        future: Future[_R] = super().submit(run, fn, *args, **kwargs)
        return future


class _Steps(Generator[Any, Any, Any]):
    """A generator each of whose steps runs under a context."""

    def __init__(self, context: RequestContext, generator: Generator[Any, Any, Any]) -> None:
        self._context = context
        self._generator = generator

    def send(self, value: Any, /) -> Any:
        with use_context(self._context):
            return self._generator.send(value)

    def throw(self, kind: Any, value: Any = None, traceback: TracebackType | None = None, /) -> Any:
        with use_context(self._context):
            return self._generator.throw(_as_error(kind, value, traceback))

    def close(self) -> None:
        with use_context(self._context):
            self._generator.close()


class _AsyncSteps(AsyncGenerator[Any, Any]):
    """An async generator each of whose steps runs under a context."""

    def __init__(self, context: RequestContext, generator: AsyncGenerator[Any, Any]) -> None:
        self._context = context
        self._generator = generator

    async def asend(self, value: Any, /) -> Any:
        with use_context(self._context):
            return await self._generator.asend(value)

    async def athrow(self, kind: Any, value: Any = None, traceback: TracebackType | None = None, /) -> Any:
        with use_context(self._context):
            return await self._generator.athrow(_as_error(kind, value, traceback))

    async def aclose(self) -> None:
        with use_context(self._context):
            await self._generator.aclose()


def _as_error(kind: Any, value: Any, traceback: TracebackType | None) -> BaseException:
    """The exception of a ``throw`` in either of its spellings."""
    if isinstance(kind, BaseException):
        return kind
    error: BaseException = (
        value if isinstance(value, BaseException) else kind() if value is None else kind(value)
    )
    return error if traceback is None else error.with_traceback(traceback)
