"""Keys, lifetimes, memory and settings: what is decided without a server."""

from __future__ import annotations

import fnmatch
import uuid
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dotmac.database.caching import CachePolicy, SmartCache
from dotmac.database.caching._client import LoopPool, RedisServer
from dotmac.database.caching._debts import Debts
from dotmac.database.caching._envelope import Entry
from dotmac.database.caching._freshness import Worth, lifetime, worth
from dotmac.database.caching._keys import LONGEST_BYTES, Scope, arguments_key, key_text, pattern_text
from dotmac.database.caching._memory import Memory
from dotmac.database.caching._statistics import Counters
from dotmac.database.errors import ConfigurationError, ValidationError

NAMES = st.text(min_size=1)
PARTS = st.lists(NAMES, min_size=2, max_size=4).map(tuple)


@given(st.tuples(NAMES, st.none() | NAMES, PARTS), st.tuples(NAMES, st.none() | NAMES, PARTS))
def test_different_things_have_different_keys(one, other):
    keys = [
        Scope.of("p", namespace, tenant).values + key_text(parts) for namespace, tenant, parts in (one, other)
    ]
    assert (keys[0] == keys[1]) == (one == other)


def test_a_namespace_is_no_tenant_and_a_key_no_namespace():
    keys = {
        Scope.of("p", "t1:user", None).values + key_text(("x",)),
        Scope.of("p", "t1", "user").values + key_text(("x",)),
        Scope.of("p", "t1", None).values + key_text(("user:x",)),
        Scope.of("p", "{t1", "user}").values + key_text(("x",)),
    }
    assert len(keys) == 4


@given(NAMES, NAMES)
def test_a_pattern_of_one_tenant_matches_no_key_of_another(tenant, other):
    pattern = Scope.of("p", "n", tenant).values + pattern_text("*")
    key = Scope.of("p", "n", other).values + key_text(("a", 1))
    assert fnmatch.fnmatchcase(key, pattern) == (tenant == other)


ARGUMENTS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats(-2, 2)
    | st.sampled_from(["", "~", "~None", "~str~1", "1", "x", str(uuid.UUID(int=1)), uuid.UUID(int=1)])
    | st.text(max_size=3)
    | st.decimals(-2, 2, places=1)
    | st.dates(date(2026, 1, 1), date(2026, 1, 2))
)
CALLS = st.tuples(
    st.lists(ARGUMENTS, max_size=3).map(tuple),
    st.dictionaries(st.sampled_from(["x", "y", "~"]), ARGUMENTS, max_size=2),
)


@given(CALLS, CALLS)
def test_different_arguments_have_different_keys(one, other):
    keys = [key_text(("f", *arguments_key(*call))) for call in (one, other)]
    typed = [repr((call[0], sorted(call[1].items()))) for call in (one, other)]
    assert (keys[0] == keys[1]) == (typed[0] == typed[1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (((1,), {}), (("1",), {})),
        (((None,), {}), (("~None",), {})),
        ((("x", "1"), {}), ((), {"x": "1"})),
        (((True,), {}), ((1,), {})),
        (((1.0,), {}), (("1.0",), {})),
        (((uuid.UUID(int=1),), {}), ((str(uuid.UUID(int=1)),), {})),
        (((date(2026, 1, 2),), {}), (("2026-01-02",), {})),
    ],
)
def test_arguments_that_only_look_alike_have_different_keys(one, other):
    assert key_text(("f", *arguments_key(*one))) != key_text(("f", *arguments_key(*other)))


@pytest.mark.parametrize("value", [42, -1, "ada", uuid.UUID(int=7)])
def test_an_ordinary_argument_is_the_part_of_a_key_that_it_is_anywhere(value):
    assert key_text(("user", *arguments_key((value,), {}))) == key_text(("user", value))


def test_keys_of_parts_and_paths():
    number = uuid.UUID(int=1)
    assert key_text(("user", 42)) == key_text(("user:42",)) == "user:42"
    assert key_text(("a:b", "c")) != key_text(("a", "b:c"))
    assert key_text(("d", date(2026, 1, 2), number, 1.5)) == f"d:2026-01-02:{number}:1.5"
    assert key_text(("a*b", "?[x]")) == "a%2Ab:%3F%5Bx%5D"


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("user:*", "user:*"),
        (r"a\*b*", "a%2Ab*"),
        ("[ab]?", "[ab]?"),
        ("[^a]*", "[^a]*"),
        ("é{*", "%C3%A9%7B*"),
        ("[", "%5B"),
    ],
)
def test_patterns_are_globs_over_encoded_keys(pattern, matched):
    assert pattern_text(pattern) == matched


class HugeText(str):
    """As long as it says, without the memory."""

    __slots__ = ()

    def __len__(self):
        return LONGEST_BYTES + 1


@pytest.mark.parametrize("text", ["", HugeText("a")])
def test_a_pattern_that_is_empty_or_too_long_is_refused(text):
    with pytest.raises(ValidationError):
        pattern_text(text)


def test_a_key_longer_than_redis_takes_is_refused():
    with pytest.raises(ValidationError, match="512 MB"):
        key_text(("a" * (LONGEST_BYTES + 1),))


@given(st.floats(0.01, 10**6), st.floats(0, 0.99), st.floats(0, 1, exclude_max=True))
def test_a_lifetime_is_never_longer_than_asked(ttl, jitter, chance):
    policy = CachePolicy(jitter=jitter, stale_seconds=5)
    life = lifetime(policy, ttl, clock=lambda: 1000.0, chance=lambda: chance)
    assert 1_000_000 < life.fresh_until <= 1_000_000 + max(ttl * 1000, 1)
    assert life.kept_until - life.fresh_until == 5000
    assert life.milliseconds == life.kept_until - 1_000_000


def entry(*, fresh_until=10, kept_until=20):
    return Entry(b"0" * 16, 0, fresh_until, kept_until, (), b"null")


@pytest.mark.parametrize(
    ("now", "value"), [(9, Worth.FRESH), (10, Worth.STALE), (19, Worth.STALE), (20, Worth.ENDED)]
)
def test_what_an_entry_is_worth(now, value):
    assert worth(entry(), now) is value


def test_memory_forgets_the_least_recently_used():
    memory = Memory(2)
    for key in "ab":
        memory.put(key, entry(), until=5, scope="s", changes=0)
    memory.get("a", 0)
    memory.put("c", entry(), until=5, scope="s", changes=0)
    assert [memory.get(key, 0) is not None for key in "abc"] == [True, False, True]
    assert memory.get("a", 5) is None


def test_memory_takes_nothing_that_was_read_before_a_change():
    memory = Memory(2)
    before = memory.changes
    memory.drop(["another"])
    memory.put("a", entry(), until=5, scope="s", changes=before)
    assert memory.get("a", 0) is None


def test_memory_forgets_keys_and_scopes_and_keeps_what_is_last_known():
    memory = Memory(9)
    for key, scope in (("a", "s"), ("b", "s"), ("c", "t")):
        memory.put(key, entry(), until=5, scope=scope, changes=0)
    memory.drop(["a"])
    assert [memory.last_known(key, 0) is not None for key in "abc"] == [False, True, True]
    memory.outdate()
    assert memory.get("c", 0) is None
    assert memory.last_known("c", 19) is not None
    assert memory.last_known("c", 20) is None
    memory.drop_scope("t")
    assert (len(memory), memory.last_known("c", 0)) == (1, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"jitter": 1},
        {"jitter": -0.1},
        {"hard_timeout": 0},
        {"timeout_seconds": -1},
        {"stale_seconds": -1},
        {"memory_entries": 0},
        {"quota": 0},
        {"quota": 1.5},
        {"negative_ttl": 0},
        {"lease_seconds": 0},
    ],
    ids=str,
)
def test_a_policy_that_cannot_work_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CachePolicy(**wrong)


@pytest.mark.parametrize("ttl", [0, -1, timedelta(0), float("nan"), float("inf")])
def test_a_time_to_live_that_is_none_is_refused(ttl):
    with pytest.raises(ValueError, match="ttl"):
        SmartCache("a", ttl=ttl)


def test_a_cache_may_be_made_without_an_event_loop():
    assert repr(SmartCache("users", ttl=timedelta(minutes=1)).for_tenant("acme")) == (
        "SmartCache('users', ttl=60, tenant='acme')"
    )
    with pytest.raises(ValidationError, match="namespace"):
        SmartCache("")
    with pytest.raises(ValueError, match="tenancy"):
        SmartCache("a", tenancy="none")
    with pytest.raises(ValueError, match="signing_key"):
        SmartCache("a", signing_key="")


@pytest.mark.parametrize(
    ("first", "meanwhile", "left"),
    [
        (["a"], ["b"], ["b"]),
        (["a"], ["a", "b"], ["a", "b"]),
        (["a"], None, None),
        (None, ["a"], None),
        (None, None, None),
    ],
)
def test_paying_what_is_owed_forgets_nothing_that_came_meanwhile(first, meanwhile, left):
    debts, scope = Debts(), Scope.of("p", "n", None)
    debts.owe(scope, first)
    (paid,) = debts.open_ones()
    debts.owe(scope, meanwhile)
    debts.paid(paid)
    (still,) = debts.open_ones()
    assert (still.scope, still.texts) == (scope, left)
    debts.paid(still)
    assert not debts


def test_the_hit_rate_counts_stale_values_as_found():
    assert Counters().hit_rate == 0.0
    assert Counters(hits=2, stale=1, misses=1).hit_rate == 0.75


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://:p%40ss@cache:7000/3", "Connection"),
        ("rediss://cache:7000", "SSLConnection"),
        ("unix:///run/redis.sock?db=2", "UnixDomainSocketConnection"),
        ("redis+sentinel://:pw@a:1,b/main/2", "SentinelManagedConnection"),
        ("rediss+sentinel://a:1/main", "SentinelManagedSSLConnection"),
    ],
)
def test_urls_name_what_is_connected_to(url, kind):
    pool = RedisServer(url, max_connections=9).pool()
    assert isinstance(pool, LoopPool)
    assert (pool.connection_class.__name__, pool.max_connections) == (kind, 9)


@pytest.mark.parametrize(
    "url",
    [
        "http://:secret@a",
        "",
        "redis://:secret@a:port",
        "redis+sentinel://:secret@a:1",
        "redis+cluster://:secret@a:b:c",
    ],
)
def test_a_url_that_cannot_work_is_refused_without_showing_it(url):
    with pytest.raises(ConfigurationError, match="REDIS_URL") as caught:
        RedisServer(url)
    assert "secret" not in str(caught.value)


def test_a_cluster_has_no_single_pool_and_its_client_needs_a_loop():
    server = RedisServer("redis+cluster://a:1,b:2")
    with pytest.raises(ConfigurationError, match="pool for each node"):
        server.pool()
    with pytest.raises(ConfigurationError, match="event loop"):
        server.client()
