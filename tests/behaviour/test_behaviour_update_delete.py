"""Changing, deleting and restoring one row."""

from __future__ import annotations

import uuid

import pydantic
import pytest
from behaviour_models import Account, Counter, Gadget, Invoice, Note, Seat, Ticket
from sqlalchemy import func, select

from dotmac.database import RequestContext, use_context
from dotmac.database.errors import (
    DuplicateEntityError,
    EntityNotFoundError,
    TenantMismatchError,
    ValidationError,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

ABSENT = uuid.UUID(int=7)
TENANT_MODELS = pytest.mark.parametrize(("model", "field"), [(Ticket, "code"), (Invoice, "number")])


async def test_update_changes_the_named_fields_only(store):
    notes = store.repo(Note)
    note = await notes.create({"title": "a", "body": "kept", "rank": 1})
    changed = await notes.update(note.id, {"title": "b", "rank": None})
    assert (changed.title, changed.body, changed.rank) == ("b", "kept", None)
    store.forget()
    found = await notes.get_by_id(note.id)
    assert (found.title, found.body, found.rank) == ("b", "kept", None)
    assert found.updated_at >= found.created_at


async def test_update_takes_only_the_set_fields_of_a_pydantic_model(store):
    class NotePatch(pydantic.BaseModel):
        title: str | None = None
        body: str | None = None

    note = await store.repo(Note).create({"title": "a", "body": "kept"})
    changed = await store.repo(Note).update(note.id, NotePatch(title="b"))
    assert (changed.title, changed.body) == ("b", "kept")


async def test_updated_row_has_its_new_time_without_another_read(store):
    notes = store.repo(Note)
    note = await notes.create({"title": "a"})
    changed = await notes.update(note.id, {"title": "b"})
    assert changed.updated_at.tzinfo is not None


async def test_update_of_nothing_changes_nothing(store):
    note = await store.repo(Note).create({"title": "a"})
    assert (await store.repo(Note).update(note.id, {})).title == "a"


@pytest.mark.parametrize(
    ("data", "field"), [({"nope": 1}, "nope"), ({"rank": "many"}, "rank"), ({"id": ABSENT}, "id")]
)
async def test_update_with_an_unknown_misfitting_or_key_field_is_refused(store, data, field):
    notes = store.repo(Note)
    note = await notes.create({"title": "a"})
    with pytest.raises(ValidationError) as caught:
        await notes.update(note.id, data)
    assert caught.value.field == field


async def test_update_may_repeat_the_key(store):
    notes = store.repo(Note)
    note = await notes.create({"title": "a"})
    assert (await notes.update(str(note.id), {"id": str(note.id), "title": "b"})).title == "b"


async def test_update_of_a_missing_or_deleted_row_is_an_error(store):
    accounts = store.repo(Account)
    with pytest.raises(EntityNotFoundError):
        await accounts.update(ABSENT, {"name": "x"})
    account = await accounts.create({"email": "a@b.c"})
    await accounts.delete(account.id)
    with pytest.raises(EntityNotFoundError):
        await accounts.update(account.id, {"name": "x"})


async def test_update_into_a_duplicate_names_the_constraint(store):
    accounts = store.repo(Account)
    await accounts.create({"email": "a@b.c", "handle": "ada"})
    other = await accounts.create({"email": "b@b.c", "handle": "bob"})
    with pytest.raises(DuplicateEntityError) as caught:
        await accounts.update(other.id, {"handle": "ada"})
    assert caught.value.constraint == "uq_behaviour_accounts_handle"


async def test_update_stamps_its_author_and_keeps_the_creator(store):
    with use_context(RequestContext(user_id="u1", request_id="r1")):
        account = await store.repo(Account).create({"email": "a@b.c"})
    with use_context(RequestContext(user_id="u2", request_id="r2")):
        account = await store.repo(Account).update(account.id, {"name": "x"})
        assert (account.created_by, account.updated_by, account.request_id) == ("u1", "u2", "r2")
        account = await store.repo(Account).update(account.id, {"name": "y"}, user_id="u3")
        assert (account.created_by, account.updated_by, account.request_id) == ("u1", "u3", "r2")


@TENANT_MODELS
async def test_another_tenants_row_is_neither_changed_nor_deleted(store, model, field):
    row = await store.repo(model, "t1").create({field: "A"})
    other = store.repo(model, "t2")
    with pytest.raises(EntityNotFoundError):
        await other.update(row.id, {field: "B"})
    assert await other.delete(row.id) is False
    assert await other.delete(row.id, soft_delete=False) is False
    with pytest.raises(EntityNotFoundError):
        await other.restore(row.id)
    store.forget()
    found = await store.repo(model, "t1").get_by_id(row.id)
    assert getattr(found, field) == "A"
    assert not found.is_deleted


@TENANT_MODELS
async def test_another_tenants_deleted_row_is_not_restored(store, model, field):
    row = await store.repo(model, "t1").create({field: "A"})
    await store.repo(model, "t1").delete(row.id)
    with pytest.raises(EntityNotFoundError):
        await store.repo(model, "t2").restore(row.id)


@TENANT_MODELS
async def test_update_cannot_move_a_row_to_another_tenant(store, model, field):
    rows = store.repo(model, "t1")
    row = await rows.create({field: "A"})
    with pytest.raises(TenantMismatchError):
        await rows.update(row.id, {"tenant_id": "t2"})
    assert (await rows.update(row.id, {"tenant_id": "t1", field: "B"})).tenant_id == "t1"


async def test_delete_marks_the_row_and_restore_brings_it_back(store):
    accounts = store.repo(Account)
    account = await accounts.create({"email": "a@b.c"})
    assert await accounts.delete(account.id) is True
    assert account.is_deleted
    assert not account.is_active
    store.forget()
    assert await accounts.count() == 0
    assert await accounts.delete(account.id) is False
    restored = await accounts.restore(account.id)
    assert (restored.deleted_at, restored.is_active) == (None, True)
    assert await accounts.count() == 1


async def test_delete_and_restore_stamp_their_author(store):
    accounts = store.repo(Account)
    account = await accounts.create({"email": "a@b.c"}, user_id="u1")
    await accounts.delete(account.id, user_id="u2")
    deleted = await accounts.get_by_id(account.id, include_deleted=True)
    assert (deleted.created_by, deleted.updated_by) == ("u1", "u2")
    with use_context(RequestContext(user_id="u3", request_id="r3")):
        restored = await store.repo(Account).restore(account.id)
    assert (restored.updated_by, restored.request_id) == ("u3", "r3")


async def test_removing_takes_live_and_deleted_rows_away(store):
    accounts = store.repo(Account)
    live = await accounts.create({"email": "a@b.c"})
    gone = await accounts.create({"email": "b@b.c"})
    await accounts.delete(gone.id)
    assert await accounts.delete(live.id, soft_delete=False) is True
    assert await accounts.delete(gone.id, soft_delete=False) is True
    assert (await store.execute(select(func.count()).select_from(Account))).scalar_one() == 0


async def test_delete_removes_rows_of_a_model_without_soft_delete(store):
    notes = store.repo(Note)
    note = await notes.create({"title": "a"})
    assert await notes.delete(note.id) is True
    assert await notes.delete(note.id) is False
    assert await notes.get_by_id(note.id) is None
    with pytest.raises(ValidationError, match="no soft delete"):
        await notes.restore(note.id)


async def test_restore_of_a_missing_row_is_an_error_and_of_a_live_one_nothing(store):
    accounts = store.repo(Account)
    with pytest.raises(EntityNotFoundError):
        await accounts.restore(ABSENT)
    account = await accounts.create({"email": "a@b.c"})
    assert (await accounts.restore(account.id)).id == account.id


@pytest.mark.parametrize(
    ("model", "row", "key", "change"),
    [
        (Counter, {"name": "a"}, "id", {"value": 5}),
        (Seat, {"row": 1, "number": 2}, ("row", "number"), {"holder": "ada"}),
        (Gadget, {"name": "drill"}, "id", {"name": "saw"}),
    ],
)
async def test_every_kind_of_key_is_updated_and_deleted(store, model, row, key, change):
    rows = store.repo(model)
    made = await rows.create(row)
    wanted = tuple(getattr(made, part) for part in key) if isinstance(key, tuple) else getattr(made, key)
    [(field, value)] = change.items()
    await rows.update(wanted, change)
    store.forget()
    assert getattr(await rows.get_by_id(wanted), field) == value
    assert await rows.delete(wanted) is True
    assert await rows.count() == 0
