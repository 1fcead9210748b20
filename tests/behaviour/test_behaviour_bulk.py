"""Writing many rows at once."""

from __future__ import annotations

import uuid
from decimal import Decimal

import pytest
from behaviour_models import Account, Colour, Counter, Gadget, Invoice, Note, Sample, Seat, Ticket
from sqlalchemy import func, select

from dotmac.database import RequestContext, use_context
from dotmac.database.errors import DuplicateEntityError, TenantMismatchError, ValidationError

pytestmark = pytest.mark.asyncio(loop_scope="session")

ABSENT = uuid.UUID(int=7)
TENANT_MODELS = pytest.mark.parametrize(("model", "field"), [(Ticket, "code"), (Invoice, "number")])
RETURNING = pytest.mark.parametrize("returning", [True, False])
MANY = 600  # more than COPY's threshold


async def test_bulk_create_gives_entities_in_order(store):
    made = await store.repo(Note).bulk_create([{"title": f"n{i}", "rank": i} for i in range(MANY)])
    assert [note.rank for note in made] == list(range(MANY))
    assert all(note.created_at.tzinfo is not None for note in made)
    store.forget()
    assert [note.rank for note in await store.repo(Note).list()] == list(range(MANY))


@pytest.mark.parametrize("size", [3, MANY])
async def test_bulk_create_without_returning_gives_the_number(store, size):
    rows = [{"title": f"n{i}", "rank": i} for i in range(size)]
    assert await store.repo(Note).bulk_create(rows, returning=False) == size
    notes = await store.repo(Note).list({"sorts": [{"field": "rank"}]})
    assert [note.rank for note in notes] == list(range(size))
    assert len({note.id for note in notes}) == size
    assert all(note.created_at.tzinfo is not None for note in notes)


@RETURNING
async def test_bulk_create_of_nothing_sends_nothing(store, returning):
    assert await store.repo(Note).bulk_create([], returning=returning) == ([] if returning else 0)


@RETURNING
@pytest.mark.parametrize("size", [2, MANY])
async def test_rows_of_a_batch_may_have_different_fields(store, returning, size):
    rows = [{"title": str(i)} | ({"rank": i} if i % 2 else {"body": "even"}) for i in range(size)]
    await store.repo(Note).bulk_create(rows, returning=returning)
    store.forget()
    notes = {note.title: note for note in await store.repo(Note).list()}
    assert (notes["0"].body, notes["0"].rank) == ("even", None)
    assert (notes["1"].body, notes["1"].rank) == (None, 1)


@RETURNING
async def test_one_bad_row_of_a_batch_refuses_all_before_anything_is_sent(store, returning):
    with pytest.raises(ValidationError):
        await store.repo(Note).bulk_create([{"title": "a"}, {"titel": "b"}], returning=returning)
    assert await store.repo(Note).count() == 0


@RETURNING
@pytest.mark.parametrize("size", [2, MANY])
async def test_duplicate_in_a_batch_names_its_constraint(store, returning, size):
    rows = [{"email": f"{i}@b.c", "handle": "same" if i < 2 else None} for i in range(size)]
    with pytest.raises(DuplicateEntityError) as caught:
        await store.repo(Account).bulk_create(rows, returning=returning)
    assert caught.value.constraint == "uq_behaviour_accounts_handle"


@RETURNING
@pytest.mark.parametrize("size", [2, MANY])
async def test_bulk_create_stamps_tenant_and_author(store, returning, size):
    with use_context(RequestContext(user_id="u1", request_id="r1")):
        await store.repo(Ticket, "t1").bulk_create(
            [{"code": str(i)} for i in range(size)], returning=returning
        )
        await store.repo(Ticket, "t2").bulk_create([{"code": "0"}], user_id="u2", returning=returning)
    store.forget()
    mine = await store.repo(Ticket, "t1").list()
    assert len(mine) == size
    assert {(t.tenant_id, t.created_by, t.updated_by, t.request_id) for t in mine} == {
        ("t1", "u1", "u1", "r1")
    }
    [theirs] = await store.repo(Ticket, "t2").list()
    assert (theirs.created_by, theirs.updated_by, theirs.request_id) == ("u2", "u2", "r1")
    assert theirs.is_active


@RETURNING
@TENANT_MODELS
async def test_bulk_create_cannot_write_for_another_tenant(store, model, field, returning):
    with pytest.raises(TenantMismatchError):
        await store.repo(model, "t1").bulk_create(
            [{field: "A"}, {field: "B", "tenant_id": "t2"}], returning=returning
        )


@RETURNING
@pytest.mark.parametrize("size", [3, MANY])
async def test_every_type_survives_a_batch(store, returning, size):
    rows = [
        {
            "name": f"s{i}",
            "colour": "green",
            "price": "12.345",
            "at": "2024-02-29T12:30:00.123456+02:00",
            "day": "2024-02-29",
            "ref": str(ABSENT),
            "flag": True,
            "size": i,
            "weight": 1.5,
            "data": {"a": [1, None, "x\ty"]},
            "words": 'tab\t"quote"\\ newline\n ü',
        }
        for i in range(size)
    ]
    await store.repo(Sample).bulk_create(rows, returning=returning)
    store.forget()
    sample = await store.repo(Sample).get_by_field("name", "s1")
    assert sample.colour is Colour.GREEN
    assert sample.price == Decimal("12.345")
    assert sample.at.isoformat() == "2024-02-29T10:30:00.123456+00:00"
    assert (sample.day.isoformat(), sample.ref, sample.flag, sample.weight) == (
        "2024-02-29",
        ABSENT,
        True,
        1.5,
    )
    assert sample.data == {"a": [1, None, "x\ty"]}
    assert sample.words == 'tab\t"quote"\\ newline\n ü'


@RETURNING
async def test_bulk_create_works_for_every_kind_of_key(store, returning):
    await store.repo(Counter).bulk_create([{"name": "a"}, {"name": "b"}], returning=returning)
    await store.repo(Seat).bulk_create(
        [{"row": 2, "number": 1}, {"row": 1, "number": 1}], returning=returning
    )
    await store.repo(Gadget).bulk_create([{"name": "drill"}, {"name": "saw"}], returning=returning)
    store.forget()
    assert [c.name for c in await store.repo(Counter).list()] == ["a", "b"]
    assert [(s.row, s.number) for s in await store.repo(Seat).list()] == [(1, 1), (2, 1)]
    assert [g.name for g in await store.repo(Gadget).list()] == ["drill", "saw"]


async def test_bulk_create_of_server_keys_gives_entities_in_order(store):
    made = await store.repo(Counter).bulk_create([{"name": name} for name in "cab"])
    assert [c.name for c in made] == ["c", "a", "b"]
    assert len({c.id for c in made}) == 3


async def test_bulk_update_gives_each_row_its_own_values(store):
    notes = store.repo(Note)
    a, b, c = await notes.bulk_create([{"title": t, "body": "old"} for t in "abc"])
    changed = await notes.bulk_update(
        [
            {"id": a.id, "title": "A", "rank": 1},
            {"id": str(b.id), "body": None},
            {"id": ABSENT, "title": "nobody"},
        ]
    )
    assert changed == 2
    assert (a.title, a.rank, a.body) == ("A", 1, "old")
    store.forget()
    found = [(n.title, n.body, n.rank) for n in await notes.list()]
    assert found == [("A", "old", 1), ("b", None, None), ("c", "old", None)]
    assert c.title == "c"


async def test_bulk_update_of_many_rows_and_types(store):
    samples = store.repo(Sample)
    made = await samples.bulk_create([{"name": f"s{i}"} for i in range(MANY)])
    changes = [
        {
            "id": s.id,
            "colour": "blue",
            "price": f"{i}.5",
            "at": "2024-01-01T00:00:00Z",
            "day": "2024-01-01",
            "ref": ABSENT,
            "flag": i % 2 == 0,
            "size": i,
            "weight": i / 4,
            "data": {"i": i},
            "words": "w",
        }
        for i, s in enumerate(made)
    ]
    assert await samples.bulk_update(changes) == MANY
    store.forget()
    sample = await samples.get_by_id(made[7].id)
    assert (sample.colour, sample.price, sample.flag, sample.size) == (Colour.BLUE, Decimal("7.5"), False, 7)
    assert (sample.at.isoformat(), sample.day.isoformat()) == ("2024-01-01T00:00:00+00:00", "2024-01-01")
    assert (sample.ref, sample.weight, sample.data, sample.words) == (ABSENT, 1.75, {"i": 7}, "w")


async def test_bulk_update_to_null_of_every_type(store):
    samples = store.repo(Sample)
    fields = ("colour", "price", "at", "day", "ref", "flag", "size", "weight", "data", "words")
    made = await samples.create(
        {
            "name": "s",
            "colour": "red",
            "price": 1,
            "at": "2024-01-01T00:00:00Z",
            "day": "2024-01-01",
            "ref": ABSENT,
            "flag": True,
            "size": 1,
            "weight": 1,
            "data": [1],
            "words": "w",
        }
    )
    assert await samples.bulk_update([{"id": made.id, **dict.fromkeys(fields)}]) == 1
    store.forget()
    found = await samples.get_by_id(made.id)
    assert [getattr(found, field) for field in fields] == [None] * len(fields)


async def test_bulk_update_stamps_time_and_author(store):
    with use_context(RequestContext(user_id="u1", request_id="r1")):
        account = await store.repo(Account).create({"email": "a@b.c"})
    with use_context(RequestContext(user_id="u2", request_id="r2")):
        await store.repo(Account).bulk_update([{"id": account.id, "name": "x"}])
        store.forget()
        account = await store.repo(Account).get_by_id(account.id)
        assert (account.created_by, account.updated_by, account.request_id) == ("u1", "u2", "r2")
        await store.repo(Account).bulk_update([{"id": account.id, "name": "y"}], user_id="u3")
    assert (account.updated_by, account.request_id) == ("u3", "r2")


async def test_bulk_update_leaves_deleted_rows_alone(store):
    accounts = store.repo(Account)
    account = await accounts.create({"email": "a@b.c", "name": "old"})
    await accounts.delete(account.id)
    assert await accounts.bulk_update([{"id": account.id, "name": "new"}]) == 0
    store.forget()
    assert (await accounts.get_by_id(account.id, include_deleted=True)).name == "old"


@TENANT_MODELS
async def test_bulk_writes_leave_other_tenants_alone(store, model, field):
    row = await store.repo(model, "t1").create({field: "A"})
    other = store.repo(model, "t2")
    assert await other.bulk_update([{"id": row.id, field: "B"}]) == 0
    assert await other.bulk_delete([row.id]) == 0
    assert await other.bulk_delete([row.id], soft_delete=False) == 0
    store.forget()
    found = await store.repo(model, "t1").get_by_id(row.id)
    assert getattr(found, field) == "A"


@TENANT_MODELS
async def test_bulk_update_cannot_move_rows_to_another_tenant(store, model, field):
    row = await store.repo(model, "t1").create({field: "A"})
    with pytest.raises(TenantMismatchError):
        await store.repo(model, "t1").bulk_update([{"id": row.id, "tenant_id": "t2"}])


@pytest.mark.parametrize(
    ("updates", "match"),
    [
        ([{"title": "no key"}], "key"),
        ([{"id": ABSENT, "nope": 1}], "no field 'nope'"),
        ([{"id": ABSENT, "rank": "x"}], "rank"),
        ([{"id": ABSENT, "rank": 1}, {"id": str(ABSENT), "rank": 2}], "same key"),
    ],
)
async def test_bulk_update_refuses_what_it_cannot_mean(store, updates, match):
    with pytest.raises(ValidationError, match=match):
        await store.repo(Note).bulk_update(updates)


async def test_bulk_update_into_a_duplicate_names_the_constraint(store):
    accounts = store.repo(Account)
    a, _b = await accounts.bulk_create([{"email": "a", "handle": "a"}, {"email": "b", "handle": "b"}])
    with pytest.raises(DuplicateEntityError) as caught:
        await accounts.bulk_update([{"id": a.id, "handle": "b"}])
    assert caught.value.constraint == "uq_behaviour_accounts_handle"


async def test_bulk_update_works_for_every_kind_of_key(store):
    await store.repo(Seat).bulk_create([{"row": 1, "number": n} for n in range(3)])
    assert (
        await store.repo(Seat).bulk_update([{"row": 1, "number": n, "holder": f"h{n}"} for n in range(2)])
        == 2
    )
    counters = await store.repo(Counter).bulk_create([{"name": n} for n in "ab"])
    assert await store.repo(Counter).bulk_update([{"id": c.id, "value": 9} for c in counters]) == 2
    gadget = await store.repo(Gadget).create({"name": "drill"})
    assert await store.repo(Gadget).bulk_update([{"id": gadget.id, "name": "saw", "serial": "s"}]) == 1
    store.forget()
    assert [s.holder for s in await store.repo(Seat).list()] == ["h0", "h1", None]
    assert [c.value for c in await store.repo(Counter).list()] == [9, 9]
    assert [(g.name, g.serial) for g in await store.repo(Gadget).list()] == [("saw", "s")]


async def test_bulk_delete_marks_and_shows_it_on_loaded_rows(store):
    accounts = store.repo(Account)
    a, b, c = await accounts.bulk_create([{"email": e} for e in "abc"])
    with use_context(RequestContext(user_id="u1", request_id="r1")):
        assert await store.repo(Account).bulk_delete([a.id, str(b.id), ABSENT]) == 2
        assert await store.repo(Account).bulk_delete([a.id]) == 0
    assert (a.is_deleted, a.is_active, a.updated_by, a.request_id) == (True, False, "u1", "r1")
    assert [x.id for x in await accounts.list()] == [c.id]
    assert await accounts.bulk_delete([c.id], user_id="u2") == 1
    assert c.updated_by == "u2"


async def test_bulk_delete_can_remove(store):
    accounts = store.repo(Account)
    made = await accounts.bulk_create([{"email": e} for e in "abc"])
    await accounts.delete(made[0].id)
    assert await accounts.bulk_delete([m.id for m in made[:2]], soft_delete=False) == 2
    assert (await store.execute(select(func.count()).select_from(Account))).scalar_one() == 1
    notes = await store.repo(Note).bulk_create([{"title": "a"}, {"title": "b"}])
    assert await store.repo(Note).bulk_delete([notes[0].id]) == 1
    assert await store.repo(Note).count() == 1
    assert await store.repo(Note).bulk_delete([]) == 0


async def test_bulk_delete_works_for_every_kind_of_key(store):
    await store.repo(Seat).bulk_create([{"row": 1, "number": n} for n in range(3)])
    assert await store.repo(Seat).bulk_delete([(1, 0), {"row": 1, "number": 1}, (9, 9)]) == 2
    counters = await store.repo(Counter).bulk_create([{"name": n} for n in "ab"])
    assert await store.repo(Counter).bulk_delete([c.id for c in counters]) == 2
    with pytest.raises(ValidationError):
        await store.repo(Counter).bulk_delete(["x"])
