"""Creating rows and finding one."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pydantic
import pytest
from behaviour_models import Account, Author, Book, Counter, Gadget, Invoice, Line, Note, Seat, Ticket
from sqlalchemy import func, select

from dotmac.database import RequestContext, unscoped, use_context
from dotmac.database.errors import (
    ConstraintViolationError,
    DuplicateEntityError,
    EntityNotFoundError,
    MissingTenantError,
    TenantMismatchError,
    ValidationError,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

ABSENT = uuid.UUID(int=7)


async def test_created_row_has_id_and_times_without_another_read(store):
    note = await store.repo(Note).create({"title": "first"})
    assert note.id.version == 7
    assert note.created_at.tzinfo is not None
    assert abs(datetime.now(UTC) - note.created_at) < timedelta(minutes=5)
    assert note.updated_at == note.created_at
    store.forget()
    assert (await store.repo(Note).get_by_id(note.id)).title == "first"


async def test_create_takes_only_the_set_fields_of_a_pydantic_model(store):
    class NoteIn(pydantic.BaseModel):
        title: str
        rank: int | None = 5

    note = await store.repo(Note).create(NoteIn(title="typed"))
    assert note.rank is None
    assert (await store.repo(Note).create(NoteIn(title="typed", rank=3))).rank == 3


async def test_create_keeps_a_given_id(store):
    assert (await store.repo(Note).create({"id": str(ABSENT), "title": "given"})).id == ABSENT


async def test_create_with_an_unknown_field_is_refused(store):
    with pytest.raises(ValidationError, match="no field 'titel'") as caught:
        await store.repo(Note).create({"titel": "typo"})
    assert (caught.value.model, caught.value.field) == ("Note", "titel")
    assert await store.repo(Note).count() == 0


async def test_create_with_something_else_than_data_is_a_type_error(store):
    with pytest.raises(TypeError, match="mapping of fields or a pydantic model"):
        await store.repo(Note).create(["title"])


async def test_create_with_a_misfit_is_refused_without_telling_the_value(store):
    with pytest.raises(ValidationError) as caught:
        await store.repo(Note).create({"title": "x", "rank": "hush-hush"})
    assert caught.value.field == "rank"
    assert "hush" not in str(caught.value)


async def test_create_without_a_required_value_is_a_constraint_violation(store):
    with pytest.raises(ConstraintViolationError) as caught:
        await store.repo(Note).create({"body": "no title"})
    assert caught.value.kind == "not_null"


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"email": "a@b.c"}, "uq_behaviour_accounts_email_live"),
        ({"email": "other@b.c", "handle": "ada"}, "uq_behaviour_accounts_handle"),
    ],
)
async def test_unique_violation_names_its_constraint(store, fields, constraint):
    accounts = store.repo(Account)
    await accounts.create({"email": "a@b.c", "handle": "ada"})
    with pytest.raises(DuplicateEntityError) as caught:
        await accounts.create(fields)
    assert (caught.value.constraint, caught.value.kind, caught.value.model) == (
        constraint,
        "unique",
        "Account",
    )
    assert "a@b.c" not in str(caught.value)


async def test_primary_key_violation_is_a_duplicate(store):
    await store.repo(Note).create({"id": ABSENT, "title": "x"})
    store.forget()
    with pytest.raises(DuplicateEntityError):
        await store.repo(Note).create({"id": ABSENT, "title": "y"})


async def test_check_violation_names_its_constraint(store):
    with pytest.raises(ConstraintViolationError) as caught:
        await store.repo(Account).create({"email": "a@b.c", "rank": -1})
    assert (caught.value.kind, caught.value.constraint) == (
        "check",
        "ck_behaviour_accounts_rank_not_negative",
    )


async def test_foreign_key_violation_is_told(store):
    with pytest.raises(ConstraintViolationError) as caught:
        await store.repo(Book).create({"title": "x", "author_id": ABSENT})
    assert caught.value.kind == "foreign_key"


async def test_session_works_again_after_a_rollback(store):
    accounts = store.repo(Account)
    await accounts.create({"email": "a@b.c"})
    with pytest.raises(DuplicateEntityError):
        await accounts.create({"email": "a@b.c"})
    await store.rollback()
    assert (await accounts.create({"email": "a@b.c"})).email == "a@b.c"


async def test_living_uniqueness_ignores_deleted_rows(store):
    accounts = store.repo(Account)
    first = await accounts.create({"email": "a@b.c"})
    await accounts.delete(first.id)
    if store.is_mysql:  # has no partial indexes
        with pytest.raises(DuplicateEntityError):
            await accounts.create({"email": "a@b.c"})
        return
    again = await accounts.create({"email": "a@b.c"})
    assert again.id != first.id
    with pytest.raises(DuplicateEntityError):
        await accounts.restore(first.id)


async def test_authors_come_from_the_context(store):
    with use_context(RequestContext(user_id="u1", request_id="r1")):
        account = await store.repo(Account).create({"email": "a@b.c"})
    assert (account.created_by, account.updated_by, account.request_id) == ("u1", "u1", "r1")


async def test_user_id_goes_before_the_context(store):
    with use_context(RequestContext(user_id="u1", request_id="r1")):
        account = await store.repo(Account).create({"email": "a@b.c"}, user_id="u2")
    assert (account.created_by, account.updated_by, account.request_id) == ("u2", "u2", "r1")


async def test_user_id_is_no_field_of_a_model_without_authors(store):
    assert (await store.repo(Note).create({"title": "x"}, user_id="u2")).title == "x"


@pytest.mark.parametrize("model", [Ticket, Invoice])
async def test_tenant_model_without_a_tenant_is_refused(store, model):
    with pytest.raises(MissingTenantError):
        store.repo(model)


async def test_tenant_for_a_model_without_one_is_a_type_error(store):
    with pytest.raises(TypeError, match="no tenant_id column"):
        store.repo(Note, "t1")


async def test_tenant_comes_from_the_context(store):
    with use_context(RequestContext(tenant_id="t1")):
        tickets = store.repo(Ticket)
        assert (await tickets.create({"code": "A"})).tenant_id == "t1"
        with pytest.raises(TenantMismatchError):
            store.repo(Ticket, "t2")


async def test_unscoped_work_sees_every_tenant(store):
    for tenant in ("t1", "t2"):
        await store.repo(Ticket, tenant).create({"code": "A"})
    with unscoped("the test counts them all"):
        assert await store.repo(Ticket).count() == 2


@pytest.mark.parametrize(("model", "field"), [(Ticket, "code"), (Invoice, "number")])
async def test_tenant_is_stamped_and_cannot_be_another(store, model, field):
    rows = store.repo(model, "t1")
    assert (await rows.create({field: "A"})).tenant_id == "t1"
    assert (await rows.create({field: "B", "tenant_id": "t1"})).tenant_id == "t1"
    with pytest.raises(TenantMismatchError):
        await rows.create({field: "C", "tenant_id": "t2"})


@pytest.mark.parametrize(("model", "field"), [(Ticket, "code"), (Invoice, "number")])
async def test_tenants_may_have_the_same_unique_values(store, model, field):
    await store.repo(model, "t1").create({field: "A"})
    await store.repo(model, "t2").create({field: "A"})
    with pytest.raises(DuplicateEntityError) as caught:
        await store.repo(model, "t2").create({field: "A"})
    assert caught.value.constraint == f"uq_{model.__tablename__}_{field}"


async def test_server_counts_integer_keys(store):
    counters = store.repo(Counter)
    first, second = await counters.create({"name": "a"}), await counters.create({"name": "b"})
    assert 0 < first.id < second.id
    assert (await counters.get_by_id(str(second.id))).name == "b"


async def test_composite_key_is_a_tuple_or_mapping(store):
    seats = store.repo(Seat)
    await seats.create({"row": 1, "number": 2, "holder": "ada"})
    store.forget()
    assert (await seats.get_by_id((1, 2))).holder == "ada"
    assert (await seats.get_by_id({"number": "2", "row": "1"})).holder == "ada"
    with pytest.raises(ValidationError, match=r"\(row, number\)"):
        await seats.get_by_id(1)


async def test_imperatively_mapped_class_is_a_model_too(store):
    gadgets = store.repo(Gadget)
    made = await gadgets.create({"name": "drill", "serial": "s1"})
    assert made.id.version == 7
    store.forget()
    assert (await gadgets.get_by_field("serial", "s1")).name == "drill"
    assert [g.name for g in await gadgets.list({"filters": [{"field": "name", "value": "drill"}]})] == [
        "drill"
    ]
    with pytest.raises(DuplicateEntityError):
        await gadgets.create({"name": "saw", "serial": "s1"})


async def test_missing_row_is_none_or_an_error(store):
    notes = store.repo(Note)
    assert await notes.get_by_id(ABSENT) is None
    with pytest.raises(EntityNotFoundError) as caught:
        await notes.get_by_id_or_raise(ABSENT)
    assert (caught.value.model, caught.value.key) == ("Note", ABSENT)


@pytest.mark.parametrize("key", ["not-a-uuid", 1, None, ("a", "b")])
async def test_key_that_does_not_fit_is_refused(store, key):
    with pytest.raises(ValidationError):
        await store.repo(Note).get_by_id(key)


async def test_deleted_row_is_found_only_when_asked_for(store):
    accounts = store.repo(Account)
    account = await accounts.create({"email": "a@b.c"})
    await accounts.delete(account.id)
    assert await accounts.get_by_id(account.id) is None
    assert await accounts.get_by_field("email", "a@b.c") is None
    with pytest.raises(EntityNotFoundError):
        await accounts.get_by_id_or_raise(account.id)
    assert (await accounts.get_by_id(account.id, include_deleted=True)).is_deleted
    assert (await accounts.get_by_id_or_raise(account.id, include_deleted=True)).is_deleted
    assert (await accounts.get_by_field("email", "a@b.c", include_deleted=True)).is_deleted


@pytest.mark.parametrize(("model", "field"), [(Ticket, "code"), (Invoice, "number")])
@pytest.mark.parametrize("loaded", [True, False])
async def test_another_tenants_row_is_not_found(store, model, field, loaded):
    row = await store.repo(model, "t1").create({field: "A"})
    if not loaded:
        store.forget()
    other = store.repo(model, "t2")
    assert await other.get_by_id(row.id) is None
    assert await other.get_by_field(field, "A") is None
    assert await other.get_by_field("id", row.id) is None
    with pytest.raises(EntityNotFoundError):
        await other.get_by_id_or_raise(row.id)
    assert (await store.repo(model, "t1").get_by_id(row.id)) is not None


async def test_get_by_field_gives_the_first_by_key(store):
    notes = store.repo(Note)
    made = [await notes.create({"title": "same"}) for _ in range(3)]
    store.forget()
    assert (await notes.get_by_field("title", "same")).id == made[0].id
    assert await notes.get_by_field("title", "none such") is None


async def test_get_by_field_none_finds_null(store):
    notes = store.repo(Note)
    await notes.create({"title": "a", "body": "text"})
    bare = await notes.create({"title": "b"})
    assert (await notes.get_by_field("body", None)).id == bare.id


async def test_get_by_unknown_field_is_refused(store):
    with pytest.raises(ValidationError, match="no field 'nope'"):
        await store.repo(Note).get_by_field("nope", 1)


async def test_relationships_are_loaded_on_request_without_deleted_rows(store):
    author = await store.repo(Author).create({"name": "Ada"})
    books = store.repo(Book)
    kept = await books.create({"title": "kept", "author_id": author.id})
    gone = await books.create({"title": "gone", "author_id": author.id})
    await books.delete(gone.id)
    store.forget()
    found = await store.repo(Author).get_by_id(author.id, load=["books"])
    assert [book.id for book in found.books] == [kept.id]
    store.forget()
    book = await books.get_by_id_or_raise(kept.id, load=["author"])
    assert book.author.name == "Ada"
    store.forget()
    [listed] = await store.repo(Author).list({"load": ["books.author"]})
    assert listed.books[0].author is listed
    with pytest.raises(ValidationError, match="no relationship 'bocks'"):
        await books.list({"load": ["bocks"]})


async def test_relationships_of_tenant_models_stay_inside_the_tenant(store):
    invoice = await store.repo(Invoice, "t1").create({"number": "1"})
    await store.repo(Line, "t1").create({"invoice_id": invoice.id, "text": "mine"})
    with pytest.raises(ConstraintViolationError) as caught:
        await store.repo(Line, "t2").create({"invoice_id": invoice.id, "text": "theirs"})
    assert caught.value.kind == "foreign_key"


async def test_create_with_related_entities(store):
    author = await store.repo(Author).create({"name": "Ada"})
    book = await store.repo(Book).create({"title": "Notes", "author": author})
    assert book.author_id == author.id


async def test_nothing_is_committed(store):
    await store.repo(Note).create({"title": "x"})
    await store.rollback()
    assert (await store.execute(select(func.count()).select_from(Note))).scalar_one() == 0
