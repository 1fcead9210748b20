"""`SmartCache.cached`: async functions whose results are read through a cache."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from dotmac.database.caching._keys import arguments_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dotmac.database.caching._cache import SmartCache
    from dotmac.database.caching._freshness import Duration

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def read_through(
    cache: SmartCache,
    prefix: tuple[Any, ...],
    *,
    key: Callable[..., tuple[Any, ...]] | None,
    ttl: Duration | None,
    tags: Sequence[str],
) -> Callable[[Callable[Parameters, Awaitable[Result]]], Callable[Parameters, Awaitable[Result]]]:
    """See `SmartCache.cached`."""

    def decorate(
        function: Callable[Parameters, Awaitable[Result]],
    ) -> Callable[Parameters, Awaitable[Result]]:
        if not inspect.iscoroutinefunction(function):
            raise TypeError("cached() decorates async functions.")
        signature = inspect.signature(function)
        first = prefix or (function.__qualname__,)

        @functools.wraps(function)
        async def through(*arguments: Parameters.args, **keywords: Parameters.kwargs) -> Result:
            if key is None:
                bound = signature.bind(*arguments, **keywords)
                bound.apply_defaults()
                rest = arguments_key(bound.args, bound.kwargs)
            else:
                rest = key(*arguments, **keywords)
            load = functools.partial(function, *arguments, **keywords)
            result: Result = await cache.get_or_load(*first, *rest, load, ttl=ttl, tags=tags)
            return result

        return through

    return decorate
