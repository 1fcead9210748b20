"""What a tenant may be called, and the schema that follows from it: one to one, and never in need of quotes.

Checked before any SQL. A name that is refused is not shown in the message when it could deceive the reader.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from dotmac.database.context import TenantId
from dotmac.database.errors import SchemaError, ValidationError

SCHEMA_PREFIX: Final = "tenant_"
MAX_IDENTIFIER_BYTES: Final = 63
"""PostgreSQL cuts longer identifiers off without a word (NAMEDATALEN - 1)."""

_MAX_SLUG_CHARS: Final = 63  # a DNS label: a slug is often a subdomain
_SLUG: Final = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*", re.ASCII)
_TENANT_ID: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:@-]*[A-Za-z0-9])?", re.ASCII)
_MAX_TENANT_ID_BYTES: Final = 63
_IDENTIFIER: Final = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)
# Names that mean another schema, or no tenant or every tenant, to people and programs.
_RESERVED: Final = frozenset(
    [
        "admin",
        "all",
        "any",
        "default",
        "everyone",
        "information_schema",
        "none",
        "null",
        "pg_catalog",
        "pg_temp",
        "pg_toast",
        "postgres",
        "public",
        "root",
        "shared",
        "system",
        "template",
        "template0",
        "template1",
        "undefined",
    ]
)
_RESERVED_SCHEMAS: Final = frozenset({"information_schema", "public", "template0", "template1", "postgres"})
# Reserved in PostgreSQL's grammar: such a name works only in quotes (manual, appendix C).
_KEYWORDS: Final = frozenset(
    [
        "all",
        "analyse",
        "analyze",
        "and",
        "any",
        "array",
        "as",
        "asc",
        "asymmetric",
        "authorization",
        "binary",
        "both",
        "case",
        "cast",
        "check",
        "collate",
        "collation",
        "column",
        "concurrently",
        "constraint",
        "create",
        "cross",
        "current_catalog",
        "current_date",
        "current_role",
        "current_schema",
        "current_time",
        "current_timestamp",
        "current_user",
        "default",
        "deferrable",
        "desc",
        "distinct",
        "do",
        "else",
        "end",
        "except",
        "false",
        "fetch",
        "for",
        "foreign",
        "freeze",
        "from",
        "full",
        "grant",
        "group",
        "having",
        "ilike",
        "in",
        "initially",
        "inner",
        "intersect",
        "into",
        "is",
        "isnull",
        "join",
        "lateral",
        "leading",
        "left",
        "like",
        "limit",
        "localtime",
        "localtimestamp",
        "natural",
        "not",
        "notnull",
        "null",
        "offset",
        "on",
        "only",
        "or",
        "order",
        "outer",
        "overlaps",
        "placing",
        "primary",
        "references",
        "returning",
        "right",
        "select",
        "session_user",
        "similar",
        "some",
        "symmetric",
        "system_user",
        "table",
        "tablesample",
        "then",
        "to",
        "trailing",
        "true",
        "union",
        "unique",
        "user",
        "using",
        "variadic",
        "verbose",
        "when",
        "where",
        "window",
        "with",
    ]
)


@lru_cache(maxsize=4096)
def check_slug(slug: str) -> str:
    """``slug``, if a tenant may be called so: lower-case ASCII letters and digits, in groups parted by ``-`` or ``_``.

    Example:
        >>> check_slug("acme-inc")
        'acme-inc'

    Raises:
        ValidationError: It may not.
    """
    if not isinstance(slug, str) or not _SLUG.fullmatch(slug):
        raise ValidationError(
            f"{_shown(slug)} is no slug. A slug is made of the lower-case letters a-z and digits, in groups parted by "
            f"a single - or _: 'acme', 'acme-inc', 'acme_2'.",
            field="slug",
        )
    if len(slug) > _MAX_SLUG_CHARS:
        raise ValidationError(
            f"A slug has at most {_MAX_SLUG_CHARS} characters, this one has {len(slug)}.", field="slug"
        )
    if slug in _RESERVED:
        raise ValidationError(f"The slug {slug!r} is reserved: it means something else.", field="slug")
    return slug


@lru_cache(maxsize=4096)
def check_tenant_id(tenant_id: str) -> TenantId:
    """``tenant_id``, if the directory takes it: 1-63 ASCII letters, digits and ``. _ : @ -``, none of these at an end.

    Raises:
        ValidationError: It does not.
    """
    text = str(tenant_id)
    if not _TENANT_ID.fullmatch(text):
        raise ValidationError(
            f"{_shown(text)} is no tenant id. An id is made of ASCII letters, digits and . _ : @ -, and begins and "
            f"ends with a letter or digit.",
            field="tenant_id",
        )
    if len(text) > _MAX_TENANT_ID_BYTES:
        raise ValidationError(
            f"A tenant id has at most {_MAX_TENANT_ID_BYTES} bytes, this one has {len(text)}.",
            field="tenant_id",
        )
    if text.lower() in _RESERVED:
        raise ValidationError(
            f"The tenant id {text!r} is reserved: it means something else.", field="tenant_id"
        )
    return TenantId(text)


def schema_name(slug: str) -> str:
    """The schema of the tenant called ``slug``; two slugs never share one.

    Example:
        >>> schema_name("acme-inc"), schema_name("acme_inc")
        ('tenant_acme__inc', 'tenant_acme_inc')

    Raises:
        ValidationError: ``slug`` is no slug.
        SchemaError: The name would be longer than PostgreSQL's identifiers.
    """
    # A slug holds no two separators in a row, so that __ can only come from a hyphen.
    name = SCHEMA_PREFIX + check_slug(slug).replace("-", "__")
    if len(name) > MAX_IDENTIFIER_BYTES:
        raise SchemaError(
            f"The schema for {slug!r} would have {len(name)} bytes; PostgreSQL keeps {MAX_IDENTIFIER_BYTES}. Choose a "
            f"shorter slug, or name the schema yourself.",
            schema=name,
        )
    return name


def slug_of_schema(name: str) -> str:
    """The slug whose schema is called ``name``: the inverse of `schema_name`.

    Raises:
        SchemaError: No slug has such a schema.
    """
    slug = name.removeprefix(SCHEMA_PREFIX).replace("__", "-")
    try:
        if schema_name(slug) == name:
            return slug
    except ValidationError:
        pass
    raise SchemaError(f"{_shown(name)} is no tenant's schema: they are called {SCHEMA_PREFIX}<slug>.")


def is_schema_name(name: object) -> bool:
    """True if ``name`` may be a schema of ours: an identifier that needs no quotes, and neither reserved nor system's."""
    return (
        isinstance(name, str)
        and _IDENTIFIER.fullmatch(name) is not None
        and len(name) <= MAX_IDENTIFIER_BYTES
        and not name.startswith("pg_")
        and name not in _RESERVED_SCHEMAS
        and name not in _KEYWORDS
    )


def check_schema_name(name: str, *, public_too: bool = False) -> str:
    """``name``, if `is_schema_name`; ``public`` as well where ``public_too``.

    Raises:
        SchemaError: It may not be a schema of ours.
    """
    if is_schema_name(name) or (public_too and name == "public"):
        return name
    raise SchemaError(
        f"{_shown(name)} cannot be the name of a schema here. It has at most {MAX_IDENTIFIER_BYTES} characters of a-z, "
        f"0-9 and _, begins with a letter, and is neither reserved in SQL nor one of the server's own."
    )


def check_role_name(name: str) -> str:
    """``name``, if a database role of ours may be called so: as a schema is.

    Raises:
        SchemaError: It may not.
    """
    if is_schema_name(name) or name == "postgres":
        return name
    raise SchemaError(
        f"{_shown(name)} cannot be the name of a database role here. It has at most {MAX_IDENTIFIER_BYTES} characters "
        f"of a-z, 0-9 and _, and begins with a letter."
    )


def _shown(name: object) -> str:
    """``name`` for a message: escaped, so that look-alikes and control characters show, and not too long."""
    text = ascii(name) if isinstance(name, str) else f"A {type(name).__name__}"
    return text if len(text) <= MAX_IDENTIFIER_BYTES + 2 else f"{text[:40]}… ({len(str(name))} characters)"
