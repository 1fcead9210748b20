"""One tenant's part of a cache: where its values are, what was counted there, and how its keys are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from dotmac.database.caching._keys import Scope, key_text
from dotmac.database.caching._statistics import Counters
from dotmac.database.context import current_context
from dotmac.database.errors import MissingTenantError

if TYPE_CHECKING:
    from collections.abc import Sequence

Tenancy = Literal["context", "required", "shared"]
Key = str | tuple[Any, ...]
"""A key given as one value: a path such as ``"user:42"``, or a tuple of its parts."""


class Missing:
    """The type of `MISSING`."""

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> Literal[False]:
        return False


MISSING: Final = Missing()
"""Given as ``default``, tells a value that is not cached from a cached None."""


@dataclass(frozen=True, slots=True)
class LoadToken:
    """The right to store what is loaded from now on, unless it is invalidated meanwhile.

    Attributes:
        scope: Where the value belongs.
        text: Its key.
        token: Who holds the lease.
        version: The generation in which the load began.
    """

    scope: Scope
    text: str
    token: str
    version: bytes


class Space:
    """One tenant's part of a cache."""

    __slots__ = ("counters", "published", "scope")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.counters = Counters()
        self.published = Counters()

    def take_news(self) -> dict[str, int]:
        """What was counted since the last time this was asked."""
        news = self.counters.since(self.published)
        self.published.add(news)
        return news

    def untake(self, news: dict[str, int]) -> None:
        """It could not be told to anybody: it is news again."""
        self.published.add({name: -count for name, count in news.items()})

    def full_keys(self, texts: Sequence[str] | None) -> list[str] | None:
        """Keys as they are in Redis; None stands for all of them."""
        return None if texts is None else [self.scope.values + text for text in texts]


class Spaces(dict[str | None, Space]):
    """Those of one cache, by tenant; each is made when it is first asked for.

    Raises:
        ValueError: There is no such tenancy.
    """

    def __init__(self, prefix: str, namespace: str, tenancy: Tenancy) -> None:
        if tenancy not in ("context", "required", "shared"):
            raise ValueError(f"tenancy is 'context', 'required' or 'shared', not {tenancy!r}.")
        super().__init__()
        self._prefix = prefix
        self._namespace = namespace
        self._tenancy = tenancy
        self[None] = Space(self.scope_of(namespace, None))

    def __missing__(self, tenant: str | None) -> Space:
        space = self[tenant] = Space(self.scope_of(self._namespace, tenant))
        return space

    def current(self) -> Space:
        """The one that the context says.

        Raises:
            MissingTenantError: The cache requires a tenant and none is bound.
        """
        if self._tenancy == "shared":
            return self[None]
        tenant = current_context().tenant_id
        if tenant is None and self._tenancy == "required":
            raise MissingTenantError(f"The cache {self._namespace!r}")
        return self[tenant]

    def scope_of(self, namespace: str, tenant: str | None) -> Scope:
        """Where values of any namespace under the cache's prefix are."""
        return Scope.of(self._prefix, namespace, tenant)


def text_of(key: Key) -> str:
    """See `key_text`."""
    return key_text(key if type(key) is tuple else (key,))
