from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dotmac.database.errors import SchemaError, ValidationError
from dotmac.database.tenancy._names import (
    check_role_name,
    check_schema_name,
    check_slug,
    check_tenant_id,
    is_schema_name,
    schema_name,
    slug_of_schema,
)

HOSTILE = [
    "",
    " ",
    " acme",
    "acme ",
    "acme'",
    'acme"',
    "acme\0",
    "acme;drop schema public",
    "acme\n",
    "a" * 64,
    "*",
    "%",
    "acme%",
    "аcme",  # noqa: RUF001 - a Cyrillic letter is the point
    "acme\u200b",
    "ａcme",  # noqa: RUF001 - a full-width letter is the point
    "..",
    "a/b",
    "a\\b",
    "pg_catalog",
    "public",
    "PUBLIC",
    "information_schema",
    "admin",
    "shared",
    "template",
    "null",
]


@pytest.mark.parametrize(
    "hostile", [*HOSTILE, "Acme", "acme--inc", "acme__inc", "acme-_inc", "-acme", "acme-", "a.b"]
)
def test_a_hostile_slug_is_refused(hostile):
    with pytest.raises(ValidationError) as refused:
        check_slug(hostile)
    assert str(refused.value).isprintable()
    assert str(refused.value).isascii()


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_id_is_refused(hostile):
    with pytest.raises(ValidationError) as refused:
        check_tenant_id(hostile)
    assert str(refused.value).isascii()


@pytest.mark.parametrize("hostile", [*HOSTILE[:-5], "Acme", "user", "table", "pg_x", "1acme", "a-b", "a.b"])
def test_a_hostile_schema_or_role_is_refused(hostile):
    assert not is_schema_name(hostile)
    with pytest.raises(SchemaError):
        check_schema_name(hostile)
    with pytest.raises(SchemaError):
        check_role_name(hostile)


def test_public_is_a_schema_only_where_it_is_asked_for():
    assert check_schema_name("public", public_too=True) == "public"


@pytest.mark.parametrize("name", ["admin", "shared", "tenant_template", "tenant_acme__inc"])
def test_our_own_schemas_may_be_called_so(name):
    assert check_schema_name(name) == name


@pytest.mark.parametrize(
    "tenant_id", ["550e8400-e29b-41d4-a716-446655440000", "tenant-123", "org_AbC", "a", "auth0:5f@x.y"]
)
def test_usual_ids_are_taken(tenant_id):
    assert check_tenant_id(tenant_id) == tenant_id


@pytest.mark.parametrize(
    ("slug", "schema"),
    [
        ("acme", "tenant_acme"),
        ("acme-inc", "tenant_acme__inc"),
        ("acme_inc", "tenant_acme_inc"),
        ("7", "tenant_7"),
    ],
)
def test_a_slugs_schema_is_the_prefix_and_the_slug(slug, schema):
    assert schema_name(slug) == schema


def test_a_slug_whose_schema_would_be_cut_off_is_refused():
    assert len(schema_name("a" * 56)) == 63
    with pytest.raises(SchemaError, match="shorter slug"):
        schema_name("a" * 57)


@given(st.from_regex(r"[a-z0-9]+([-_][a-z0-9]+){0,6}", fullmatch=True).filter(lambda slug: len(slug) < 45))
def test_every_slug_has_a_schema_that_leads_back_and_needs_no_quotes(slug):
    try:
        check_slug(slug)
    except ValidationError:
        return  # reserved
    name = schema_name(slug)
    assert slug_of_schema(name) == slug
    assert re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name)
    assert is_schema_name(name)


@given(st.text())
def test_whatever_is_taken_as_a_slug_is_plain_ascii(text):
    try:
        check_slug(text)
    except ValidationError:
        return
    assert re.fullmatch(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", text)


@pytest.mark.parametrize("name", ["public", "tenant_", "tenant_Acme", "tenant_a___b", "acme", "tenant_a-b"])
def test_what_is_no_tenants_schema_has_no_slug(name):
    with pytest.raises(SchemaError):
        slug_of_schema(name)
