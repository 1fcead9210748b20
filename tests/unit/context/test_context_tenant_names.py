"""Which text may name a tenant: what an application chose, and what a stranger wrote."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dotmac.database import TenantId, validated_tenant

HOSTILE = [
    "", " ", " acme", "acme ", "a b", "a\x00b", "a\nb", "a\x1bb", "a\x7fb", "a'b", 'a"b', "a`b", "a;b", "a--'b", "*", "%",
    "a*", "a%", "a\\b", "..", "../acme", "a/../b", "a/b", "a..b", ".acme", "acme.", "-acme", "_acme", "$user",
    "\u0430cme", "\uff41\uff43\uff4d\uff45", "acme\u200b", "acme\u202e", "ac\u0301me", "\ufb01rm", "İ", "x" * 256, "{acme}", "<acme>", "a,b", "a|b",
    "a&b", "a#b", "a?b", "a(b)",
]  # fmt: skip
USUAL = [
    "acme", "Acme", "tenant-123", "t_1", "7", "550e8400-e29b-41d4-a716-446655440000", "ann@example.com", "org:42", "eu.acme",
    "YWNtZQ==", "x" * 255, "a--b",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_names_no_tenant(text):
    with pytest.raises(ValueError, match="tenant id") as caught:
        validated_tenant(text)
    assert len(text.strip()) < 5 or text not in str(caught.value)


@pytest.mark.parametrize("text", USUAL)
def test_usual_names_pass_unchanged(text):
    assert validated_tenant(text) == text
    assert type(validated_tenant(text)) is TenantId


@pytest.mark.parametrize("text", ["Acme Corporation", "łódź", "o'neill", "a/b"])
def test_an_applications_own_names_may_hold_more(text):
    assert TenantId(text) == text


@given(st.text())
def test_whatever_passes_is_plain(text):
    try:
        tenant = validated_tenant(text)
    except ValueError:
        return
    assert tenant == text
    assert set(tenant) <= set(string.ascii_letters + string.digits + "._:@+~=-")
    assert 0 < len(tenant.encode()) <= 255
    assert ".." not in tenant


@given(st.from_regex(re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?", re.ASCII), fullmatch=True))
def test_every_slug_passes(slug):
    assert validated_tenant(slug) == slug
