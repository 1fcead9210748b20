"""Redis keys of one namespace and tenant: no two things share a key, and no text in one is read as a pattern.

``prefix:{namespace:tenant}:v:user:42``. Namespace, tenant and parts of a key are percent-encoded except for letters,
digits and a few signs, so ``:``, ``{`` and the characters of patterns are ours alone. The braces are Redis Cluster's hash
tag: what belongs to one namespace and tenant lives on one node, where one script can change it at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import UUID

from dotmac.database.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_BYTES = 512 * 1024 * 1024
"""What Redis takes as a key or a value (``proto-max-bulk-len``)."""

COPIES_TAG = "{dotmac-copies}"
"""What the keys of those who keep copies begin with, so that on a cluster one node has them all."""

_SHORT = 1000
_SAFE = "-_.~+=@,/"
_looks_like_another = re.compile(r"-?[0-9]+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
_is_plain = re.compile(r"[A-Za-z0-9\-_.~+=@,/]+").fullmatch
_PATTERN_PARTS = re.compile(r"\\(.)|\[(\^?)([A-Za-z0-9\-_.]+)\]|([*?:])|([^\\\[*?:]+)|(.)", re.DOTALL)
_TEXTUAL = (str, int, UUID, date, datetime, Decimal, float)


@dataclass(frozen=True, slots=True)
class Scope:
    """The keys of one namespace and tenant.

    Attributes:
        namespace: Name of the cache.
        tenant: Whose entries, or None for those that belong to no tenant.
        tag: What every key begins with.
        values: What the key of every value begins with.
        leases: What the key of every lease begins with.
        stamp: Key of the generation numbers.
        copies: Key of those who keep copies in memory, of any scope with this prefix.
    """

    namespace: str
    tenant: str | None
    tag: str
    values: str
    leases: str
    stamp: str
    copies: str

    @classmethod
    def of(cls, prefix: str, namespace: str, tenant: str | None) -> Scope:
        """The scope of ``namespace`` and ``tenant``.

        Raises:
            ValidationError: ``namespace`` or ``prefix`` is empty.
        """
        if not namespace or not prefix:
            raise ValidationError("A cache needs a namespace and a prefix that are not empty.")
        inner = quoted(namespace) if tenant is None else f"{quoted(namespace)}:{quoted(tenant)}"
        tag = f"{quoted(prefix)}:{{{inner}}}:"
        copies = f"{COPIES_TAG}:{quoted(prefix)}"
        return cls(namespace, tenant, tag, f"{tag}v:", f"{tag}l:", f"{tag}s", copies)

    def tag_key(self, name: str) -> str:
        """Key of the number at which the tag was last invalidated."""
        if not name:
            raise ValidationError("A tag must not be empty.")
        return f"{self.tag}t:{quoted(name)}"

    @property
    def counters(self) -> str:
        """Key of the statistics that all processes add to."""
        return f"{self.tag}c"

    @property
    def index(self) -> str:
        """Key of the entries by expiry, where there is a quota."""
        return f"{self.tag}q"


def quoted(text: str) -> str:
    """``text`` without any character that means something in a key or a pattern."""
    return text if _is_plain(text) else quote(text, safe=_SAFE, errors="surrogatepass")


def key_text(parts: tuple[Any, ...]) -> str:
    """The part of a key that names the entry: ``("user", 42)`` and ``("user:42",)`` are both ``user:42``.

    One text alone is a path whose colons separate parts; of several parts, each is taken whole.

    Raises:
        ValidationError: There is no part, one is empty, not textual, or they are longer than Redis takes.
    """
    if len(parts) == 2:  # noqa: PLR2004 - what most keys are, without what they need not
        first, second = parts
        if type(first) is str and type(second) is int and _is_plain(first) and len(first) < _SHORT:
            return f"{first}:{second}"
    if len(parts) == 1 and type(parts[0]) is str:
        parts = tuple(_checked(parts[0]).split(":"))
    texts = []
    for part in parts:
        text = part if type(part) is str else _text(part)
        if not text:
            raise ValidationError(
                "A cache key must not be empty, nor hold an empty part: that would be one entry for everybody."
            )
        texts.append(text if _is_plain(text) else quoted(_checked(text)))
    if not texts:
        raise ValidationError("A cache key needs at least one part, as in get('user', user_id).")
    return _checked(":".join(texts))


def arguments_key(positional: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, ...]:
    """Parts of a key that tell the arguments of one call from those of any other.

    Ints, UUIDs and texts that look like neither are themselves, so that ``delete("user", 42)`` names what ``user(42)`` has
    loaded. Everything else says its type ("42" is not 42), and what is given by name follows a part that no value is.
    """
    parts: list[Any] = [_argument(value) for value in positional]
    for name in sorted(named):
        parts += ("~", _argument(name), _argument(named[name]))
    return tuple(parts)


def _argument(value: Any) -> Any:
    kind = type(value)
    if kind is int or isinstance(value, UUID):
        return value
    if kind is str:
        return value if value[:1] not in ("", "~") and not _looks_like_another(value) else f"~str~{value}"
    if value is None or kind is bool:  # what get() refuses as a likely mistake is a plain value here
        return f"~{value}"
    return f"~{kind.__module__}.{kind.__qualname__}~{_text(value)}"


def pattern_text(pattern: str) -> str:
    r"""``pattern`` as Redis is to match it: ``*``, ``?`` and ``[abc]`` are globs, ``\*`` is a star, the rest is itself.

    Raises:
        ValidationError: It is empty.
    """
    if not pattern:
        raise ValidationError("A pattern must not be empty; 'user:*' is one, and '*' is every entry.")
    return "".join(_glob_part(match) for match in _PATTERN_PARTS.finditer(_checked(pattern)))


def _glob_part(match: re.Match[str]) -> str:
    escaped, negated, characters, glob, literal, stray = match.groups()
    if glob is not None:
        return glob
    if characters is not None:
        return f"[{negated}{characters}]"
    return quoted(escaped or literal or stray)


def _text(part: Any) -> str:
    if isinstance(part, Enum):
        part = part.value
    if isinstance(part, bool) or not isinstance(part, _TEXTUAL):
        raise ValidationError(
            f"A {type(part).__name__} cannot be part of a cache key: use text, numbers, UUIDs or dates."
        )
    return str(part.isoformat() if isinstance(part, date) else part)


def _checked(text: str) -> str:
    if len(text) > LONGEST_BYTES:
        raise ValidationError(
            f"A cache key of {len(text)} characters is longer than Redis takes (512 MB): use a hash of it."
        )
    return text
