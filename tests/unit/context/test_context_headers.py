"""A context that went through a queue is the one that was sent, or an error."""

from __future__ import annotations

import base64
import json
import string
import time
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dotmac.database import (
    RequestContext,
    context_from_headers,
    context_headers,
    unscoped,
    use_context,
)
from dotmac.database.context import CONTEXT_HEADER
from dotmac.database.errors import InvalidContextError, TenantError

KEY = "a key of at least sixteen bytes"
OLD = b"another key of at least sixteen bytes"
HOUR = timedelta(hours=1)
ACME = RequestContext(tenant_id="acme", user_id="ann", request_id="r-1", client_ip="10.0.0.1")

texts = st.text(min_size=1, max_size=40)
tenants = st.text(string.ascii_letters + string.digits + " 'Ł\u200b", min_size=1).filter(
    lambda text: text == text.strip() and text.isprintable()
)
contexts = st.builds(
    RequestContext, st.none() | tenants, st.none() | texts, st.none() | texts, st.none() | texts
)


def read(headers, **options):
    return context_from_headers(headers, **{"key": KEY, "max_age": HOUR, **options})


def refusal(headers, **options) -> str:
    with pytest.raises(InvalidContextError) as caught:
        read(headers, **options)
    assert KEY not in str(caught.value)
    assert "acme" not in str(caught.value)
    return caught.value.reason


@given(contexts, texts)
def test_what_was_sent_arrives(context, purpose):
    headers = context_headers(context, key=KEY, purpose=purpose)
    assert json.loads(json.dumps(headers)) == headers
    assert headers[CONTEXT_HEADER].isascii()
    assert read(headers, purpose=purpose) == context


def test_the_context_in_force_is_sent_by_default():
    with use_context(ACME):
        assert read(context_headers(key=KEY)) == ACME


@pytest.mark.parametrize("name", ["x-dotmac-context", "X-DOTMAC-CONTEXT", b"x-dotmac-context"])
def test_names_are_found_in_any_case_and_as_bytes(name):
    (value,) = context_headers(ACME, key=KEY).values()
    assert read({name: value}) == ACME
    assert read({"other": "header", name: value.encode()}) == ACME


@given(st.data())
def test_a_changed_character_is_refused(data):
    text = context_headers(ACME, key=KEY)[CONTEXT_HEADER]
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters().filter(lambda character: character != text[at]))
    with pytest.raises(InvalidContextError):
        read({CONTEXT_HEADER: text[:at] + other + text[at + 1 :]})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "damaged"),
        ("1..", "signature"),
        ("1.é.x", "damaged"),
        ("1.a.b.c", "damaged"),
        ("1." + "a" * 10_000 + ".b", "damaged"),
        ("2.a.b", "version"),
        (None, "damaged"),
        (b"\xff", "damaged"),
    ],
)
def test_what_is_no_context_is_refused(value, reason):
    assert refusal({CONTEXT_HEADER: value}) == reason


def test_missing_and_doubled_headers_are_refused():
    (value,) = context_headers(ACME, key=KEY).values()
    assert refusal({}) == "missing"
    assert refusal({CONTEXT_HEADER: value, CONTEXT_HEADER.lower(): value}) == "damaged"


def test_a_made_up_payload_is_refused():
    payload = base64.urlsafe_b64encode(json.dumps({"t": "globex", "at": int(time.time())}).encode())
    version, _, signature = context_headers(ACME, key=KEY)[CONTEXT_HEADER].split(".")
    assert refusal({CONTEXT_HEADER: f"{version}.{payload.decode().rstrip('=')}.{signature}"}) == "signature"


def test_another_key_or_purpose_is_refused():
    headers = context_headers(ACME, key=KEY, purpose="send_invoice")
    assert refusal(headers, key=OLD, purpose="send_invoice") == "signature"
    assert refusal(headers, purpose="delete_account") == "signature"
    assert refusal(headers) == "signature"


def test_keys_rotate():
    before = context_headers(ACME, key=OLD)
    after = context_headers(ACME, key=[KEY, OLD])
    assert read(before, key=[KEY, OLD]) == read(after, key=[KEY, OLD]) == read(after) == ACME
    assert refusal(before) == "signature"


@pytest.mark.parametrize(("seconds", "accepted"), [(3590, True), (3610, False), (-50, True), (-70, False)])
def test_age_is_bounded_on_both_sides(monkeypatch, seconds, accepted):
    headers = context_headers(ACME, key=KEY)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + seconds)
    if accepted:
        assert read(headers) == ACME
    else:
        assert refusal(headers) == "age"


def test_an_unscoped_context_does_not_travel():
    with unscoped("a report"), pytest.raises(ValueError, match="does not travel"):
        context_headers(key=KEY)


@pytest.mark.parametrize("key", ["short", b"", "", [], [KEY, "short"]])
def test_weak_keys_are_refused_without_being_shown(key):
    with pytest.raises(ValueError, match="at least 16 bytes") as caught:
        context_headers(ACME, key=key)
    assert "short" not in str(caught.value)
    with pytest.raises(ValueError, match="at least 16 bytes"):
        read({}, key=key)


def test_an_age_that_nothing_meets_is_refused():
    with pytest.raises(ValueError, match="positive"):
        read(context_headers(ACME, key=KEY), max_age=timedelta())


def test_an_untrusted_context_is_a_tenant_error():
    assert issubclass(InvalidContextError, TenantError)
