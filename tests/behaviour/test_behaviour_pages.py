"""Order, pages by number, pages by cursor, streams."""

from __future__ import annotations

import base64

import pytest
import pytest_asyncio
from behaviour_models import Account, Colour, Gadget, Invoice, Note, Sample, Seat, Ticket

from dotmac.database import (
    CountMode,
    CursorPaginationParams,
    NullsOrder,
    PaginationParams,
    QueryFilter,
    QueryOptions,
    SortField,
    SortOrder,
)
from dotmac.database.errors import InvalidCursorError, ValidationError

pytestmark = pytest.mark.asyncio(loop_scope="session")

SORTABLE = ["colour", "price", "at", "day", "ref", "flag", "size", "weight", "words"]
BOTH = pytest.mark.parametrize("order", list(SortOrder))
NULLS = pytest.mark.parametrize("nulls", [None, *NullsOrder])


def ref(number):
    return f"00000000-0000-0000-0000-{number:012d}"


@pytest_asyncio.fixture(loop_scope="session")
async def samples(store):
    """Ten rows with ties and NULLs in every column."""
    repo = store.repo(Sample)
    await repo.bulk_create(
        {"name": f"s{i}"}
        | (
            {}
            if i % 4 == 3
            else {
                "colour": list(Colour)[i % 3],
                "price": f"{i // 2}.125",
                "at": f"2024-01-0{1 + i // 2}T00:00:00.{i % 2}00001Z",
                "day": f"2024-01-0{1 + i // 3}",
                "ref": ref(i // 2),
                "flag": i % 2 == 0,
                "size": i // 3,
                "weight": (i // 2) * 0.1,
                "words": "abc"[i % 3],
            }
        )
        for i in range(10)
    )
    return repo


def rank(store, value):
    # PostgreSQL's enums sort in the order of their declaration; elsewhere they are their names, as text.
    if isinstance(value, Colour):
        return list(Colour).index(value) if store.dialect == "postgresql" else value.name
    return value


async def in_order(store, repo, sorts):
    """The oracle: Python's stable sort, the last sort first; the key in the last sort's direction."""
    rows = sorted(await repo.list(), key=lambda row: row.id, reverse=bool(sorts) and sorts[-1].descending)
    for field, descending, nulls_first in [(s.field, s.descending, s.nulls_first) for s in reversed(sorts)]:
        known = [row for row in rows if getattr(row, field) is not None]
        unknown = [row for row in rows if getattr(row, field) is None]
        known.sort(key=lambda row, field=field: rank(store, getattr(row, field)), reverse=descending)
        rows = [*unknown, *known] if nulls_first else [*known, *unknown]
    return [row.name for row in rows]


MIXED = [
    [SortField(field="flag"), SortField(field="size", order="desc")],
    [SortField(field="words", order="desc", nulls="last"), SortField(field="price", nulls="first")],
    [SortField(field="colour"), SortField(field="at", order="desc"), SortField(field="name")],
    [SortField(field="name", order="desc")],
    [SortField(field="created_at"), SortField(field="id", order="desc")],
]


@BOTH
@NULLS
@pytest.mark.parametrize("field", SORTABLE)
async def test_sort_puts_nulls_where_it_says_and_ties_by_key(store, samples, field, order, nulls):
    sorts = [SortField(field=field, order=order, nulls=nulls)]
    found = await samples.list(QueryOptions(sorts=sorts))
    assert [row.name for row in found] == await in_order(store, samples, sorts)


@pytest.mark.parametrize("sorts", MIXED)
async def test_sorts_combine_in_mixed_directions(store, samples, sorts):
    found = await samples.list(QueryOptions(sorts=sorts))
    assert [row.name for row in found] == await in_order(store, samples, sorts)


async def test_order_without_sorts_is_by_key(store):
    notes = await store.repo(Note).bulk_create([{"title": t} for t in "cab"])
    assert [n.id for n in await store.repo(Note).list()] == [n.id for n in notes]
    for nothing in (None, {}, QueryOptions()):
        assert len(await store.repo(Note).list(nothing)) == 3


@pytest.mark.parametrize(
    ("sort", "match"),
    [
        ({"field": "nope"}, "no field 'nope'"),
        ({"field": "data"}, "no order"),
        ({"field": "data.x"}, "only its own columns"),
        ({"field": "name", "order": "up"}, "order"),
        ({"field": "name", "direction": "asc"}, "direction"),
    ],
)
@pytest.mark.parametrize("method", ["list", "list_paginated", "cursor_paginate"])
async def test_sort_that_does_not_fit_is_refused(store, method, sort, match):
    with pytest.raises(ValidationError, match=match):
        await getattr(store.repo(Sample), method)({"sorts": [sort]})


@pytest.mark.parametrize(
    "options",
    [
        {"filter": []},
        {"pagination": {"page": 0}},
        {"pagination": {"per_page": 0}},
        {"pagination": {"per_page": 1001}},
        {"cursor_pagination": {"limit": 1001}},
        {"pagination": {"size": 5}},
    ],
)
async def test_options_that_do_not_fit_are_refused(store, options):
    with pytest.raises(ValidationError):
        await store.repo(Note).list(options)


async def test_options_of_another_type_are_a_type_error(store):
    with pytest.raises(TypeError, match="Options are"):
        await store.repo(Note).list([1])


@pytest.mark.parametrize(
    ("page", "expected", "has_next"),
    [
        (1, "s0 s1 s2 s3", True),
        (2, "s4 s5 s6 s7", True),
        (3, "s8 s9", False),
        (4, "", False),
        (99, "", False),
    ],
)
@pytest.mark.parametrize("count", list(CountMode))
async def test_page_has_its_rows_and_the_total_its_mode_promises(
    store, samples, page, expected, has_next, count
):
    found = await samples.list_paginated(
        {"sorts": [{"field": "name"}], "pagination": {"page": page, "per_page": 4, "count": count}}
    )
    assert [row.name for row in found.items] == expected.split()
    assert (found.page, found.per_page, found.has_next, found.has_prev) == (page, 4, has_next, page > 1)
    if count is CountMode.NONE:
        assert (found.total, found.pages, found.total_is_exact) == (None, None, False)
    elif count is CountMode.ESTIMATE and store.dialect == "postgresql" and page != 3:
        assert found.total >= len(found.items) + (1 if has_next else 0)
        assert found.total_is_exact is False
    else:
        assert (found.total, found.pages, found.total_is_exact) == (10, 3, True)


@pytest.mark.parametrize(
    ("cap", "total", "exact"), [(5, 5, False), (9, 9, False), (11, 10, True), (50, 10, True)]
)
async def test_capped_total_is_at_least(store, samples, cap, total, exact):
    params = PaginationParams(per_page=2, count=CountMode.CAPPED, count_cap=cap)
    found = await samples.list_paginated(QueryOptions(pagination=params))
    assert (found.total, found.total_is_exact) == (total, exact)


async def test_page_counts_what_the_filters_leave(store, samples):
    found = await samples.list_paginated(
        {"filters": [{"field": "flag", "value": True}], "pagination": {"per_page": 2}}
    )
    assert (found.total, found.pages, len(found.items)) == (5, 3, 2)
    empty = await samples.list_paginated({"filters": [{"field": "name", "value": "none"}]})
    assert (empty.items, empty.total, empty.pages, empty.has_next, empty.has_prev) == ([], 0, 0, False, False)


async def test_list_takes_one_page(store, samples):
    found = await samples.list({"sorts": [{"field": "name"}], "pagination": {"page": 2, "per_page": 3}})
    assert [row.name for row in found] == ["s3", "s4", "s5"]


async def walk(repo, options, limit):
    """All rows by next_cursor, then all back by prev_cursor from the last page; both lists of names."""
    there, cursor = [], None
    while True:
        params = CursorPaginationParams(limit=limit, cursor=cursor)
        page = await repo.cursor_paginate(QueryOptions(**options, cursor_pagination=params))
        there.append([row.name for row in page.items])
        assert page.has_next is (page.next_cursor is not None)
        assert page.has_prev is (page.prev_cursor is not None)
        assert page.has_prev is (len(there) > 1)
        if not page.has_next:
            break
        cursor = page.next_cursor
    back = [there[-1]]
    while page.has_prev:
        params = CursorPaginationParams(limit=limit, cursor=page.prev_cursor)
        page = await repo.cursor_paginate(QueryOptions(**options, cursor_pagination=params))
        back.append([row.name for row in page.items])
        assert page.has_next
    return [name for part in there for name in part], [name for part in reversed(back) for name in part]


@BOTH
@NULLS
@pytest.mark.parametrize("field", SORTABLE)
async def test_cursors_walk_all_rows_once_both_ways(store, samples, field, order, nulls):
    sorts = [SortField(field=field, order=order, nulls=nulls)]
    expected = await in_order(store, samples, sorts)
    there, back = await walk(samples, {"sorts": sorts}, 3)
    assert there == expected
    assert back == expected


@pytest.mark.parametrize("limit", [1, 2, 5, 10, 20])
@pytest.mark.parametrize("sorts", MIXED)
async def test_cursors_walk_mixed_sorts_at_every_size(store, samples, sorts, limit):
    expected = await in_order(store, samples, sorts)
    assert await walk(samples, {"sorts": sorts}, limit) == (expected, expected)


async def test_cursor_field_and_order_stand_for_a_sort(store, samples):
    params = CursorPaginationParams(limit=20, cursor_field="name", order=SortOrder.DESC)
    page = await samples.cursor_paginate(QueryOptions(cursor_pagination=params))
    assert [row.name for row in page.items] == [f"s{i}" for i in reversed(range(10))]


async def test_cursor_pages_stay_right_while_rows_come_and_go(store):
    notes = store.repo(Note)
    await notes.bulk_create([{"title": f"n{i}", "rank": i * 10} for i in range(6)])
    options = {"sorts": [SortField(field="rank")]}
    first = await notes.cursor_paginate({**options, "cursor_pagination": {"limit": 2}})
    await notes.create({"title": "before", "rank": 5})
    await notes.create({"title": "after", "rank": 15})
    await notes.delete(first.items[1].id)
    second = await notes.cursor_paginate(
        {**options, "cursor_pagination": {"limit": 2, "cursor": first.next_cursor}}
    )
    assert [n.title for n in second.items] == ["after", "n2"]
    back = await notes.cursor_paginate(
        {**options, "cursor_pagination": {"limit": 5, "cursor": second.prev_cursor}}
    )
    assert [n.title for n in back.items] == ["n0", "before"]
    assert back.has_prev is False


async def test_cursors_of_every_kind_of_key(store):
    await store.repo(Seat).bulk_create(
        [{"row": r, "number": n, "holder": f"{r}{n}"} for r in range(3) for n in range(2)]
    )
    await store.repo(Gadget).bulk_create([{"name": n} for n in "abc"])
    seats, cursor = [], None
    while True:
        page = await store.repo(Seat).cursor_paginate({"cursor_pagination": {"limit": 2, "cursor": cursor}})
        seats += [s.holder for s in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert seats == ["00", "01", "10", "11", "20", "21"]
    page = await store.repo(Gadget).cursor_paginate(
        {"sorts": [{"field": "name"}], "cursor_pagination": {"limit": 2}}
    )
    page = await store.repo(Gadget).cursor_paginate(
        {"sorts": [{"field": "name"}], "cursor_pagination": {"limit": 2, "cursor": page.next_cursor}}
    )
    assert [g.name for g in page.items] == ["c"]


async def test_empty_cursor_page_has_no_cursors(store):
    page = await store.repo(Note).cursor_paginate()
    assert (page.items, page.next_cursor, page.prev_cursor, page.has_next, page.has_prev) == (
        [],
        None,
        None,
        False,
        False,
    )


async def first_cursor(repo, **options):
    page = await repo.cursor_paginate({**options, "cursor_pagination": {"limit": 1}})
    assert page.next_cursor is not None
    return page.next_cursor


async def test_cursor_of_another_query_tenant_or_model_is_refused(store):
    mine, theirs = store.repo(Ticket, "t1"), store.repo(Ticket, "t2")
    for repo in (mine, theirs):
        await repo.bulk_create([{"code": c, "points": 1} for c in "ab"])
    await store.repo(Invoice, "t1").bulk_create([{"number": n} for n in "ab"])
    cursor = await first_cursor(mine)

    async def use(repo, **options):
        return await repo.cursor_paginate({**options, "cursor_pagination": {"cursor": cursor}})

    assert len((await use(mine)).items) == 1
    for repo, options in [
        (theirs, {}),
        (store.repo(Invoice, "t1"), {}),
        (mine, {"sorts": [{"field": "code"}]}),
        (mine, {"filters": [{"field": "points", "value": 1}]}),
        (mine, {"include_deleted": True}),
    ]:
        with pytest.raises(InvalidCursorError, match="another query"):
            await use(repo, **options)


def reencoded(cursor, old, new):
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    return base64.urlsafe_b64encode(raw.replace(old, new)).rstrip(b"=").decode()


async def test_damaged_cursor_is_refused(store):
    notes = store.repo(Note)
    await notes.bulk_create([{"title": t, "rank": 1} for t in "ab"])
    good = await first_cursor(notes, sorts=[{"field": "rank"}])
    for bad in [
        "",
        "x",
        "not base64 at all!",
        good[:-4],
        good[1:],
        good + "AAAA",
        "é",
        reencoded(good, b"after", b"never"),
        reencoded(good, b'"after"', b"7"),
        reencoded(good, b"[1,", b'[{"a":1},'),
        reencoded(good, b"[1,", b'["x",'),
        reencoded(good, b"[1,", b"[1,1,"),
        base64.urlsafe_b64encode(b"[" * 5000).decode(),
    ]:
        with pytest.raises(InvalidCursorError):
            await notes.cursor_paginate({"sorts": [{"field": "rank"}], "cursor_pagination": {"cursor": bad}})


async def test_signed_cursor_is_good_under_its_key_only(store):
    await store.repo(Note).bulk_create([{"title": t} for t in "ab"])
    signed, other = store.repo(Note, cursor_secret="one"), store.repo(Note, cursor_secret=b"two")
    cursor = await first_cursor(signed)
    page = await signed.cursor_paginate({"cursor_pagination": {"cursor": cursor}})
    assert [n.title for n in page.items] == ["b"]
    unsigned = await first_cursor(store.repo(Note))
    for repo, token in [(other, cursor), (store.repo(Note), cursor), (signed, unsigned)]:
        with pytest.raises(InvalidCursorError):
            await repo.cursor_paginate({"cursor_pagination": {"cursor": token}})
    with pytest.raises(InvalidCursorError, match="signature"):
        await signed.cursor_paginate({"cursor_pagination": {"cursor": reencoded(cursor, b"after", b"befor")}})


async def test_pages_hide_deleted_rows_and_other_tenants(store):
    mine, theirs = store.repo(Ticket, "t1"), store.repo(Ticket, "t2")
    made = await mine.bulk_create([{"code": c} for c in "abc"])
    await theirs.bulk_create([{"code": c} for c in "xyz"])
    await mine.delete(made[1].id)
    page = await mine.list_paginated()
    assert ([t.code for t in page.items], page.total) == (["a", "c"], 2)
    page = await mine.list_paginated({"include_deleted": True})
    assert page.total == 3
    page = await mine.cursor_paginate()
    assert [t.code for t in page.items] == ["a", "c"]
    page = await mine.cursor_paginate({"include_deleted": True})
    assert len(page.items) == 3
    assert [t.code for t in await mine.stream()] == ["a", "c"]
    assert len(await mine.stream({"include_deleted": True})) == 3
    assert len(await theirs.stream()) == 3


async def test_stream_gives_all_matching_rows_in_order(store):
    notes = store.repo(Note)
    await notes.bulk_create([{"title": str(i), "rank": i} for i in range(25)], returning=False)
    options = {
        "filters": [QueryFilter(field="rank", operator="gte", value=5)],
        "sorts": [SortField(field="rank", order="desc")],
    }
    assert [n.rank for n in await notes.stream(options, batch_size=4)] == list(range(24, 4, -1))
    assert await notes.stream({"filters": [{"field": "title", "value": "none"}]}) == []
    with pytest.raises(ValidationError):
        await notes.stream({"sorts": [{"field": "nope"}]})


async def test_stream_shows_pending_changes_of_the_session(store):
    accounts = store.repo(Account)
    account = await accounts.create({"email": "a"})
    await accounts.update(account.id, {"name": "new"})
    assert [a.name for a in await accounts.stream()] == ["new"]
