"""Rows that may exist already: upsert, upsert_many, get_or_create."""

from __future__ import annotations

import uuid

import pytest
from behaviour_models import Account, Counter, Gadget, Invoice, Note, Seat, Ticket
from sqlalchemy import func, select

from dotmac.database import RequestContext, use_context
from dotmac.database.errors import DuplicateEntityError, TenantMismatchError, ValidationError

pytestmark = pytest.mark.asyncio(loop_scope="session")

TENANT_MODELS = pytest.mark.parametrize(("model", "field"), [(Ticket, "code"), (Invoice, "number")])


async def rows_of(store, model):
    return (await store.execute(select(func.count()).select_from(model))).scalar_one()


async def test_upsert_inserts_then_updates(store):
    counters = store.repo(Counter)
    first = await counters.upsert({"name": "a", "value": 1})
    second = await counters.upsert({"name": "a", "value": 2})
    assert first.id == second.id
    assert second.value == 2
    assert await rows_of(store, Counter) == 1


async def test_upsert_shows_on_a_loaded_row(store):
    counters = store.repo(Counter)
    loaded = await counters.create({"name": "a", "value": 1})
    await counters.upsert({"name": "a", "value": 2})
    assert loaded.value == 2


async def test_upsert_gives_server_values(store):
    account = await store.repo(Account).upsert({"email": "a", "handle": "h"}, match=["handle"])
    assert account.created_at.tzinfo is not None
    assert account.is_active is True
    assert account.rank == 0


async def test_upsert_changes_only_the_listed_fields_of_a_row_that_exists(store):
    accounts = store.repo(Account)
    await accounts.upsert({"email": "a", "handle": "h", "name": "old", "rank": 1}, match=["handle"])
    again = await accounts.upsert(
        {"email": "b", "handle": "h", "name": "new", "rank": 2}, match=["handle"], update=["rank"]
    )
    assert (again.email, again.name, again.rank) == ("a", "old", 2)
    again = await accounts.upsert(
        {"email": "b", "handle": "h", "name": "new", "rank": 3}, match=["handle"], update=[]
    )
    assert (again.email, again.rank) == ("a", 2)


async def test_upsert_does_not_reset_fields_it_was_not_given(store):
    accounts = store.repo(Account)
    await accounts.upsert({"email": "a", "handle": "h", "rank": 7}, match=["handle"])
    again = await accounts.upsert({"email": "b", "handle": "h"}, match=["handle"])
    assert (again.email, again.rank) == ("b", 7)


async def test_upsert_by_a_partial_index(store):
    accounts = store.repo(Account)
    first = await accounts.upsert({"email": "a", "name": "x"}, match=["email"])
    assert (await accounts.upsert({"email": "a", "name": "y"}, match=["email"])).id == first.id
    if store.is_mysql:
        return  # its index holds over deleted rows too
    await accounts.delete(first.id)
    assert (await accounts.upsert({"email": "a", "name": "z"}, match=["email"])).id != first.id


async def test_upsert_by_primary_key(store):
    notes = store.repo(Note)
    key = uuid.UUID(int=5)
    await notes.upsert({"id": key, "title": "a", "body": "kept"})
    note = await notes.upsert({"id": str(key), "title": "b"})
    assert (note.id, note.title, note.body) == (key, "b", "kept")
    seats = store.repo(Seat)
    await seats.upsert({"row": 1, "number": 1, "holder": "a"})
    assert (await seats.upsert({"row": 1, "number": 1, "holder": "b"})).holder == "b"
    gadgets = store.repo(Gadget)
    first = await gadgets.upsert({"name": "drill", "serial": "s"}, match=["serial"])
    assert (await gadgets.upsert({"name": "saw", "serial": "s"}, match=["serial"])).id == first.id


async def test_upsert_stamps_authors(store):
    with use_context(RequestContext(user_id="u1", request_id="r1")):
        await store.repo(Account).upsert({"email": "a", "handle": "h"}, match=["handle"])
    with use_context(RequestContext(user_id="u2", request_id="r2")):
        account = await store.repo(Account).upsert({"email": "b", "handle": "h"}, match=["handle"])
        assert (account.created_by, account.updated_by, account.request_id) == ("u1", "u2", "r2")
        account = await store.repo(Account).upsert(
            {"email": "b", "handle": "h"}, match=["handle"], user_id="u3"
        )
        assert (account.created_by, account.updated_by) == ("u1", "u3")


@pytest.mark.parametrize(
    ("data", "options", "match"),
    [
        ({"name": "x", "email": "a"}, {"match": ["name"]}, "no unique constraint fits"),
        ({"name": "x"}, {}, "no unique constraint fits|needs a value"),
        ({"email": "a", "handle": "h"}, {}, "several unique constraints"),
        ({"email": "a", "nope": 1}, {"match": ["email"]}, "no field 'nope'"),
        ({"email": "a"}, {"match": ["email"], "update": ["name"]}, "does not hold"),
        ({"email": "a", "handle": None}, {"match": ["handle"]}, "needs a value"),
    ],
)
async def test_upsert_refuses_what_it_cannot_mean(store, data, options, match):
    with pytest.raises(ValidationError, match=match):
        await store.repo(Account).upsert(data, **options)
    assert await rows_of(store, Account) == 0


async def test_upsert_against_another_constraint_is_a_duplicate(store):
    accounts = store.repo(Account)
    await accounts.create({"email": "a", "handle": "h"})
    await accounts.create({"email": "b", "handle": "i"})
    with pytest.raises(DuplicateEntityError):
        await accounts.upsert({"email": "c", "handle": "i", "id": uuid.UUID(int=1)}, match=["id"])


@TENANT_MODELS
async def test_upsert_stays_inside_the_tenant(store, model, field):
    mine = await store.repo(model, "t1").upsert({field: "A"}, match=[field])
    theirs = await store.repo(model, "t2").upsert({field: "A"}, match=[field])
    assert mine.id != theirs.id
    assert (mine.tenant_id, theirs.tenant_id) == ("t1", "t2")
    assert (await store.repo(model, "t1").upsert({field: "A"}, match=["tenant_id", field])).id == mine.id
    with pytest.raises(TenantMismatchError):
        await store.repo(model, "t1").upsert({field: "A", "tenant_id": "t2"}, match=[field])


async def test_upsert_does_not_take_another_tenants_row_by_its_key(store):
    theirs = await store.repo(Ticket, "t2").create({"code": "A", "title": "theirs"})
    with pytest.raises(DuplicateEntityError, match="another tenant"):
        await store.repo(Ticket, "t1").upsert({"id": theirs.id, "code": "B", "title": "mine"}, match=["id"])
    store.forget()
    found = await store.repo(Ticket, "t2").get_by_id(theirs.id)
    assert (found.code, found.title) == ("A", "theirs")


async def test_upsert_leaves_a_deleted_row_alone(store):
    tickets = store.repo(Ticket, "t1")
    row = await tickets.create({"code": "A", "title": "old"})
    await tickets.delete(row.id)
    with pytest.raises(DuplicateEntityError, match="deleted"):
        await tickets.upsert({"code": "A", "title": "new"}, match=["code"])
    store.forget()
    assert (await tickets.get_by_id(row.id, include_deleted=True)).title == "old"


async def test_upsert_many_gives_entities_in_order(store):
    counters = store.repo(Counter)
    await counters.create({"name": "b", "value": 1})
    made = await counters.upsert_many([{"name": name, "value": 5} for name in "cba"])
    assert [c.name for c in made] == ["c", "b", "a"]
    assert {c.value for c in made} == {5}
    assert await rows_of(store, Counter) == 3
    assert await counters.upsert_many([]) == []


async def test_upsert_many_takes_thousands_of_rows(store):
    counters = store.repo(Counter)
    rows = [{"name": f"n{i}", "value": i} for i in range(2500)]
    await counters.upsert_many(rows)
    made = await counters.upsert_many([row | {"value": row["value"] + 1} for row in rows])
    assert [c.value for c in made] == list(range(1, 2501))
    assert await rows_of(store, Counter) == 2500


async def test_upsert_many_refuses_rows_with_the_same_unique_values(store):
    with pytest.raises(ValidationError, match="rows 0 and 2"):
        await store.repo(Counter).upsert_many([{"name": n} for n in "aba"])
    assert await rows_of(store, Counter) == 0


async def test_rows_of_an_upsert_may_have_different_fields(store):
    accounts = store.repo(Account)
    await accounts.bulk_create([{"email": "a", "handle": "a", "name": "x", "rank": 3}])
    made = await accounts.upsert_many(
        [{"email": "a1", "handle": "a"}, {"email": "b", "handle": "b", "name": "y"}], match=["handle"]
    )
    assert [(a.email, a.name, a.rank) for a in made] == [("a1", "x", 3), ("b", "y", 0)]


async def test_upsert_many_meeting_a_deleted_row_changes_nothing_of_it(store):
    tickets = store.repo(Ticket, "t1")
    row = await tickets.create({"code": "A", "title": "old"})
    await tickets.delete(row.id)
    with pytest.raises(DuplicateEntityError, match="1 of 2 rows"):
        await tickets.upsert_many([{"code": "A", "title": "n"}, {"code": "B"}], match=["code"])


async def test_get_or_create_creates_once(store):
    counters = store.repo(Counter)
    first, created = await counters.get_or_create({"name": "a"}, {"value": 3})
    assert (created, first.value) == (True, 3)
    second, created = await counters.get_or_create({"name": "a"}, {"value": 4})
    assert (created, second.id, second.value) == (False, first.id, 3)
    assert await rows_of(store, Counter) == 1


async def test_get_or_create_fills_what_the_client_and_server_default(store):
    with use_context(RequestContext(user_id="u1", request_id="r1")):
        account, created = await store.repo(Account).get_or_create({"email": "a"}, {"name": "x"})
    assert created
    assert account.id.version == 7
    assert account.created_at.tzinfo is not None
    assert (account.created_by, account.request_id, account.rank, account.is_active) == ("u1", "r1", 0, True)
    _, created = await store.repo(Account).get_or_create({"email": "a"})
    assert not created


async def test_get_or_create_stamps_user_id(store):
    account, _ = await store.repo(Account).get_or_create({"email": "a"}, user_id="u2")
    assert (account.created_by, account.updated_by) == ("u2", "u2")


@pytest.mark.parametrize(
    ("lookup", "defaults", "match"),
    [
        ({}, None, "fields to look up"),
        ({"name": "x"}, {"email": "a"}, "several rows"),
        ({"email": "a"}, {"nope": 1}, "no field 'nope'"),
        ({"nope": "a"}, None, "no field 'nope'"),
        ({"email": "a"}, {"rank": "x"}, "rank"),
    ],
)
async def test_get_or_create_refuses_what_it_cannot_mean(store, lookup, defaults, match):
    with pytest.raises(ValidationError, match=match):
        await store.repo(Account).get_or_create(lookup, defaults)
    assert await rows_of(store, Account) == 0


@TENANT_MODELS
async def test_get_or_create_stays_inside_the_tenant(store, model, field):
    mine, _ = await store.repo(model, "t1").get_or_create({field: "A"})
    theirs, created = await store.repo(model, "t2").get_or_create({field: "A"})
    assert created
    assert (mine.id != theirs.id, theirs.tenant_id) == (True, "t2")


async def test_get_or_create_does_not_bring_a_deleted_row_back(store):
    tickets = store.repo(Ticket, "t1")
    row = await tickets.create({"code": "A"})
    await tickets.delete(row.id)
    with pytest.raises(DuplicateEntityError, match="deleted"):
        await tickets.get_or_create({"code": "A"})


async def test_get_or_create_by_every_kind_of_key(store):
    key = uuid.UUID(int=3)
    note, created = await store.repo(Note).get_or_create({"id": key}, {"title": "x"})
    assert (note.id, created) == (key, True)
    assert (await store.repo(Note).get_or_create({"id": str(key)}))[1] is False
    seat, created = await store.repo(Seat).get_or_create({"row": 1, "number": 2}, {"holder": "h"})
    assert (seat.holder, created) == ("h", True)
    assert (await store.repo(Seat).get_or_create({"row": 1, "number": 2}))[1] is False
    gadget, created = await store.repo(Gadget).get_or_create({"serial": "s"}, {"name": "drill"})
    assert (gadget.name, created) == ("drill", True)
    assert (await store.repo(Gadget).get_or_create({"serial": "s"}))[1] is False
