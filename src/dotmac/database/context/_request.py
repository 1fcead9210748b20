"""Who is asking: the values a context holds, and which text may name a tenant."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Self

_MAX_TENANT_ID_CHARS = 255
_PLAIN_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:@+~=-]*[A-Za-z0-9=~+_-])?", re.ASCII)


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


def validated_tenant(value: object) -> TenantId:
    """The tenant that a stranger's text names: what arrives in a header, a host name or a path.

    Stricter than `TenantId`, which also takes the names that an application chose itself: ASCII letters and digits,
    and between them ``. _ - : @ + ~ =``. No look-alike from another alphabet, quote, wildcard, slash or ``..`` passes.

    Raises:
        ValueError: The text is no such name; the message says what is wrong and does not repeat the text.
    """
    tenant = TenantId(value)
    if not tenant.isascii():
        raise ValueError("A tenant id from outside must be ASCII: letters of other alphabets look alike.")
    if ".." in tenant or _PLAIN_NAME.fullmatch(tenant) is None:
        raise ValueError(
            "A tenant id from outside consists of letters, digits and . _ - : @ + ~ =, begins with a letter or digit "
            "and holds no two dots in a row."
        )
    return tenant


@dataclass(frozen=True, slots=True)
class RequestContext:
    """On whose behalf work is done. Immutable; another tenant is another context.

    Attributes:
        tenant_id: The tenant whose rows may be seen, or None outside any tenant.
        user_id: Who acts; goes to ``created_by`` and ``updated_by``.
        request_id: Which request; goes to ``request_id``.
        client_ip: Where the request came from.
        unscoped_reason: Set by `unscoped` only, and no argument: why this work may see every tenant.
    """

    tenant_id: str | None = None
    user_id: str | None = None
    request_id: str | None = None
    client_ip: str | None = None
    unscoped_reason: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.tenant_id is not None:
            object.__setattr__(self, "tenant_id", TenantId(self.tenant_id))

    @property
    def is_unscoped(self) -> bool:
        """True inside `unscoped`: tenant predicates are off, on purpose and on the record."""
        return self.unscoped_reason is not None
