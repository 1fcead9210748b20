"""Who is asking: one immutable context, carried by a contextvar into tasks and threads, never by process-wide state.

A context is bound with `use_context` and read with `current_context`. Work across tenants is only possible inside
`unscoped`, which wants a reason and logs it.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

_logger = logging.getLogger("dotmac.database.tenancy")

_MAX_TENANT_ID_CHARS = 255


class TenantId(str):
    """A tenant's identifier: at most 255 characters, none of them a control character, no space at the ends.

    Example:
        >>> TenantId("550e8400-e29b-41d4-a716-446655440000").startswith("550e")
        True

    Raises:
        ValueError: The text is empty or too long, holds a control character, or begins or ends with a space.
    """

    __slots__ = ()

    def __new__(cls, value: object) -> Self:
        """Check ``value``."""
        text = str(value)
        if not text.strip():
            raise ValueError("A tenant id must not be empty.")
        if text != text.strip():
            # MySQL's collations take "acme" and "acme " for equal.
            raise ValueError("A tenant id must not begin or end with a space.")
        if len(text) > _MAX_TENANT_ID_CHARS:
            raise ValueError(
                f"A tenant id has at most {_MAX_TENANT_ID_CHARS} characters, this one has {len(text)}."
            )
        if not text.isprintable():
            raise ValueError("A tenant id must not hold control characters.")
        return super().__new__(cls, text)


@dataclass(frozen=True, slots=True)
class RequestContext:
    """On whose behalf work is done. Immutable; another tenant is another context.

    Attributes:
        tenant_id: The tenant whose rows may be seen, or None outside any tenant.
        user_id: Who acts; goes to ``created_by`` and ``updated_by``.
        request_id: Which request; goes to ``request_id``.
        client_ip: Where the request came from.
        unscoped_reason: Set by `unscoped` only: why this work may see every tenant.
    """

    tenant_id: str | None = None
    user_id: str | None = None
    request_id: str | None = None
    client_ip: str | None = None
    unscoped_reason: str | None = None

    def __post_init__(self) -> None:
        if self.tenant_id is not None:
            object.__setattr__(self, "tenant_id", TenantId(self.tenant_id))

    @property
    def is_unscoped(self) -> bool:
        """True inside `unscoped`: tenant predicates are off, on purpose and on the record."""
        return self.unscoped_reason is not None


_EMPTY = RequestContext()
_current: ContextVar[RequestContext] = ContextVar("dotmac_database_context", default=_EMPTY)


def current_context() -> RequestContext:
    """The context in force here; an empty one where none is bound."""
    return _current.get()


@contextmanager
def use_context(context: RequestContext) -> Iterator[RequestContext]:
    """Bind ``context`` for the block; whatever was bound before is back afterwards, also after an error."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)


@contextmanager
def unscoped(reason: str) -> Iterator[RequestContext]:
    """Let the block see every tenant's rows. The only way out of tenancy: logged as a warning with its reason.

    Raises:
        ValueError: ``reason`` is blank.
    """
    if not reason.strip():
        raise ValueError("unscoped() wants a reason: say why this work may see every tenant.")
    outer = _current.get()
    _logger.warning("Unscoped database work: %s", reason, extra={"unscoped_reason": reason})
    with use_context(
        RequestContext(
            user_id=outer.user_id,
            request_id=outer.request_id,
            client_ip=outer.client_ip,
            unscoped_reason=reason,
        )
    ) as context:
        yield context
