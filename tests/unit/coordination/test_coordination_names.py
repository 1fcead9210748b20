from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest

from dotmac.database.coordination import PgAdvisoryLock, RedisLock, advisory_key
from dotmac.database.coordination._redis_scripts import Keys


def test_a_name_is_the_signed_start_of_its_hash():
    digest = hashlib.sha256(b"dotmac.lock\0acme\0report").digest()
    assert advisory_key("report", tenant="acme") == int.from_bytes(digest[:8], "big", signed=True)


def test_a_number_is_kept_whoever_the_tenant_is():
    assert advisory_key(12345, tenant="acme") == 12345
    assert advisory_key(-(2**63)) == -(2**63)


@pytest.mark.parametrize(
    ("key", "error"),
    [(2**63, ValueError), (True, TypeError), (1.5, TypeError), ("", ValueError), (None, TypeError)],
)
def test_what_is_no_key_is_refused(key, error):
    with pytest.raises(error):
        PgAdvisoryLock(key)


@pytest.mark.parametrize("made", [advisory_key, lambda name, tenant="": Keys.of(tenant, name).lock])
def test_tenants_and_names_never_meet(made):
    names = ["a", "a/b", "b", "{a}", "a}:fence", "%2F", "a\0b", "é"]
    tenants = ["", "a", "a/b", "b", "{", "}", "%"]
    assert len({made(name, tenant=tenant) for name in names for tenant in tenants}) == len(names) * len(
        tenants
    )


@pytest.mark.parametrize("name", ["plain", "}", "{", "{}", "a}b{c}"])
def test_all_keys_of_a_lock_have_one_hash_tag(name):
    keys = Keys.of("acme", name)
    tags = {
        key[key.index("{") + 1 : key.index("}")]
        for key in (keys.lock, keys.fence, keys.freed, keys.void("t"))
    }
    assert len(tags) == 1
    assert tags != {""}


@pytest.mark.parametrize(
    ("ttl", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        ("60", TypeError),
        (None, TypeError),
    ],
)
def test_a_lease_without_an_end_is_refused(ttl, error):
    with pytest.raises(error, match="ttl"):
        RedisLock("a", ttl=ttl)


def test_a_lease_wants_its_length():
    with pytest.raises(TypeError, match="ttl"):
        RedisLock("a")


def test_lengths_of_time_are_seconds_or_timedeltas():
    assert (
        repr(RedisLock("a", ttl=timedelta(minutes=1), wait=timedelta(seconds=1))) == "RedisLock('a', ttl=60)"
    )
