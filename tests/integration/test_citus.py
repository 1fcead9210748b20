"""Tables distributed by tenant: the same repositories, and each of a tenant's statements runs on one shard.

Citus runs only where ``--citus-url`` names a coordinator; plain PostgreSQL runs the same work and the same EXPLAINs everywhere.
"""

from __future__ import annotations

import re
import secrets
import uuid  # noqa: TC003 - the mapper evaluates annotations
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import ForeignKey, MetaData, String, event, make_url, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from dotmac.database import (
    Base,
    BaseModel,
    RequestContext,
    SoftDeleteMixin,
    TenantModel,
    create_engine,
    create_repository,
    create_session_factory,
    tenant_foreign_key,
    tenant_unique,
    use_context,
    with_session,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine
    from sqlalchemy.orm import Session

METADATA = MetaData(naming_convention=Base.metadata.naming_convention)
# Workers of one run, and runs side by side, share the coordinator's database.
PREFIX = f"oncitus_{secrets.token_hex(3)}"
TENANTS = ("acme", "globex")
SHARDS = 4


class Category(BaseModel):
    """Shared by all tenants: a reference table, on every node."""

    __tablename__ = f"{PREFIX}_categories"
    metadata = METADATA

    name: Mapped[str] = mapped_column(String(50), unique=True)


class Invoice(SoftDeleteMixin, TenantModel):
    __tablename__ = f"{PREFIX}_invoices"
    metadata = METADATA
    __table_args__ = (tenant_unique("number"),)

    number: Mapped[str] = mapped_column(String(50))
    amount: Mapped[int | None]
    category_id: Mapped[uuid.UUID] = mapped_column(ForeignKey(f"{PREFIX}_categories.id"))
    category: Mapped[Category] = relationship(lambda: Category)
    lines: Mapped[list[Line]] = relationship(lambda: Line, back_populates="invoice")


class Line(TenantModel):
    __tablename__ = f"{PREFIX}_lines"
    metadata = METADATA
    __table_args__ = (tenant_foreign_key("invoice_id", f"{PREFIX}_invoices"),)

    invoice_id: Mapped[uuid.UUID]
    item: Mapped[str] = mapped_column(String(50))
    invoice: Mapped[Invoice] = relationship(lambda: Invoice, back_populates="lines")


def objection(plan: str) -> str | None:
    """What keeps an EXPLAIN's text from showing one task on one shard; None if it shows that."""
    tasks = [int(count) for count in re.findall(r"^\s*Task Count: (\d+)\s*$", plan, flags=re.MULTILINE)]
    if not tasks:
        return "no distributed plan"
    if re.search(r"^\s*->\s+Distributed Subplan ", plan, flags=re.MULTILINE):
        return "a part runs first, and its rows are sent to the nodes"
    return None if tasks == [1] else f"tasks: {', '.join(map(str, tasks))}"


ROUTED = """\
Custom Scan (Citus Adaptive)  (cost=0.00..0.00 rows=0 width=0)
  Task Count: 1
  Tasks Shown: All
  ->  Task
        Node: host=localhost port=9701 dbname=app
        ->  Index Scan using invoices_pkey_102041 on invoices_102041 invoices  (cost=0.15..8.17 rows=1 width=74)
              Index Cond: ((tenant_id)::text = 'acme'::text)
"""
PREPARED_FIRST = """\
Custom Scan (Citus Adaptive)  (cost=0.00..0.00 rows=0 width=0)
  ->  Distributed Subplan 7_1
        ->  Custom Scan (Citus Adaptive)  (cost=0.00..0.00 rows=100000 width=4)
              Task Count: 1
  Task Count: 1
"""
PLAIN = """\
Seq Scan on invoices  (cost=0.00..18.50 rows=1 width=74)
  Filter: ((number)::text = 'Task Count: 1'::text)
"""


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (ROUTED, None),
        (ROUTED.replace("Count: 1", "Count: 32"), "tasks: 32"),
        (ROUTED.replace("Count: 1", "Count: 0"), "tasks: 0"),
        (ROUTED + ROUTED.replace("Count: 1", "Count: 32"), "tasks: 1, 32"),
        (PREPARED_FIRST, "a part runs first, and its rows are sent to the nodes"),
        (PLAIN, "no distributed plan"),
        ("", "no distributed plan"),
    ],
    ids=["router", "multi-shard", "no shard", "two plans", "subplan", "plain", "empty"],
)
def test_a_plan_is_judged_by_its_tasks(plan, expected):
    assert objection(plan) == expected


@dataclass(frozen=True, slots=True)
class Store:
    """A server with the tables; ``is_distributed`` on Citus."""

    engine: Engine
    is_distributed: bool
    category_id: uuid.UUID

    def ask(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Rows, asked on a connection without a guard or a recorder, with literals for parameters."""
        url = self.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, cursor_factory=psycopg.ClientCursor) as connection:
            return connection.execute(statement, parameters or None).fetchall()

    def explain(self, statement: str, parameters: Any = None) -> str:
        return "\n".join(line for (line,) in self.ask(f"EXPLAIN {statement}", parameters))


@pytest.fixture(scope="module", params=["postgresql", "citus"])
def store(request):
    is_distributed = request.param == "citus"
    if is_distributed:
        url = make_url(request.getfixturevalue("citus_url")).set(drivername="postgresql+psycopg")
    else:
        url = request.getfixturevalue("dotmac_database").url("psycopg")
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            METADATA.create_all(connection)
        if is_distributed:
            _distribute(engine)
        with with_session(create_session_factory(engine)) as session:
            category = create_repository(session, Category).create({"name": "office"})
        yield Store(engine, is_distributed, category.id)
    finally:
        with in_sequence(engine) as connection:
            METADATA.drop_all(connection)
        engine.dispose()


@contextmanager
def in_sequence(engine: Engine) -> Iterator[Connection]:
    """A transaction whose work on all shards goes shard by shard: beside a reference to a table that is on every node,
    Citus refuses it otherwise. Plain PostgreSQL takes the setting for one that nobody reads.
    """
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL citus.multi_shard_modify_mode = 'sequential'"))
        yield connection


def _distribute(engine: Engine) -> None:
    """By tenant, all in one group so that their references stay on a shard; shared tables go to every node."""
    with in_sequence(engine) as connection:
        connection.execute(text(f"SET LOCAL citus.shard_count = {SHARDS}"))
        group = "none"
        for table in METADATA.sorted_tables:  # what is referred to comes first
            if "tenant_id" in table.c:
                connection.execute(
                    text(
                        "SELECT create_distributed_table(CAST(:table AS regclass), 'tenant_id', colocate_with => :group)"
                    ),
                    {"table": table.name, "group": group},
                )
                group = table.name if group == "none" else group
            else:
                connection.execute(
                    text("SELECT create_reference_table(CAST(:table AS regclass))"), {"table": table.name}
                )


# One kind of work each, on an empty set of invoices; the numbers are the same for each tenant.


def creates_and_finds(session: Session, category_id: uuid.UUID) -> None:
    invoices = create_repository(session, Invoice)
    made = invoices.create({"number": "1", "amount": 10, "category_id": category_id})
    create_repository(session, Line).create({"invoice_id": made.id, "item": "paper"})
    session.expunge_all()
    found = invoices.get_by_id_or_raise(made.id, load=["lines", "category"])
    assert ([line.item for line in found.lines], found.category.name) == (["paper"], "office")
    assert invoices.get_by_field("number", "1") is found
    assert invoices.exists([{"field": "number", "value": "1"}])


def lists_filtered_by_relations(session: Session, category_id: uuid.UUID) -> None:
    invoices, lines = create_repository(session, Invoice), create_repository(session, Line)
    for number in ("1", "2"):
        made = invoices.create({"number": number, "category_id": category_id})
        lines.create({"invoice_id": made.id, "item": f"item {number}"})
    by_line = {"field": "lines.item", "value": "item 2"}
    by_category = {"field": "category.name", "value": "office"}
    assert [row.number for row in invoices.list({"filters": [by_line, by_category]})] == ["2"]
    assert [row.item for row in lines.list({"filters": [{"field": "invoice.number", "value": "1"}]})] == [
        "item 1"
    ]
    page = invoices.list_paginated({"filters": [by_category], "pagination": {"page": 2, "per_page": 1}})
    assert (page.total, len(page.items)) == (2, 1)


def pages_by_cursor(session: Session, category_id: uuid.UUID) -> None:
    invoices = create_repository(session, Invoice)
    for number, amount in enumerate((3, None, 1, 2, None)):
        invoices.create({"number": str(number), "amount": amount, "category_id": category_id})
    amounts, cursor = [], None
    while True:
        page = invoices.cursor_paginate(
            {"sorts": [{"field": "amount"}], "cursor_pagination": {"limit": 2, "cursor": cursor}}
        )
        amounts += [row.amount for row in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert amounts == [1, 2, 3, None, None]


def updates_deletes_and_restores(session: Session, category_id: uuid.UUID) -> None:
    invoices = create_repository(session, Invoice)
    key = invoices.create({"number": "1", "category_id": category_id}).id
    assert invoices.update(key, {"amount": 5}).amount == 5
    assert invoices.delete(key)
    assert invoices.get_by_id(key) is None
    assert invoices.restore(key).amount == 5
    gone = invoices.create({"number": "2", "category_id": category_id}).id
    assert invoices.delete(gone, soft_delete=False)
    assert invoices.count(include_deleted=True) == 1


def upserts(session: Session, category_id: uuid.UUID) -> None:
    invoices = create_repository(session, Invoice)
    data = {"number": "1", "amount": 1, "category_id": category_id}
    key = invoices.upsert(data, match=["number"]).id
    assert invoices.upsert(data | {"amount": 2}, match=["number"]).id == key
    rows = invoices.upsert_many([data | {"amount": 3}, data | {"number": "2"}], match=["number"])
    assert [(row.number, row.amount) for row in rows] == [("1", 3), ("2", 1)]
    found, created = invoices.get_or_create({"number": "1"}, {"category_id": category_id})
    assert (found.id, created) == (key, False)


def writes_in_bulk(session: Session, category_id: uuid.UUID) -> None:
    invoices = create_repository(session, Invoice)
    made = invoices.bulk_create([{"number": str(n), "category_id": category_id} for n in range(4)])
    copied = [{"number": f"c{n}", "amount": n, "category_id": category_id} for n in range(600)]
    assert invoices.bulk_create(copied, returning=False) == 600
    assert invoices.bulk_update([{"id": row.id, "amount": n} for n, row in enumerate(made)]) == 4
    assert invoices.bulk_delete([made[0].id]) == 1
    assert invoices.bulk_delete([made[1].id], soft_delete=False) == 1
    assert sum(1 for _ in invoices.stream({"sorts": [{"field": "number"}]})) == 602


WORK = (
    creates_and_finds,
    lists_filtered_by_relations,
    pages_by_cursor,
    updates_deletes_and_restores,
    upserts,
    writes_in_bulk,
)


@pytest.fixture
def statements(store):
    """Statements on tables of tenants, each with its parameters."""
    sent: list[tuple[str, Any]] = []

    def note(_connection, _cursor, statement, parameters, _context, _many):
        if f"{PREFIX}_invoices" in statement or f"{PREFIX}_lines" in statement:
            each = parameters if isinstance(parameters, list) else [parameters]
            sent.extend((statement, values) for values in each)

    event.listen(store.engine, "before_cursor_execute", note)
    yield sent
    event.remove(store.engine, "before_cursor_execute", note)


def rows_by_tenant(store):
    """How many invoices each tenant has, of all shards."""
    return dict(store.ask(f"SELECT tenant_id, count(*) FROM {PREFIX}_invoices GROUP BY tenant_id"))  # noqa: S608 - our own name


@pytest.fixture(params=WORK, ids=lambda work: work.__name__)
def worked(request, store, statements):
    """What each tenant did, one after the other; the statements sent."""
    factory, counts = create_session_factory(store.engine), []
    try:
        for tenant in TENANTS:
            with use_context(RequestContext(tenant_id=tenant)), with_session(factory) as session:
                request.param(session, store.category_id)
            counts.append(rows_by_tenant(store))
        yield counts, list(statements)
    finally:
        with in_sequence(store.engine) as connection:
            for model in (Line, Invoice):
                connection.execute(text(f"DELETE FROM {model.__tablename__}"))  # noqa: S608 - our own name


def test_repositories_serve_each_tenant_apart(worked):
    [first, second], _ = worked
    assert set(first) == {"acme"}
    assert second == {"acme": first["acme"], "globex": first["acme"]}


def test_every_statement_of_a_tenant_touches_one_shard(store, worked):
    _, statements = worked
    asked = [sent for sent in statements if not sent[0].startswith("INSERT")]
    assert asked
    assert [sql for sql, parameters in asked if not set(TENANTS) & {*map(str, parameters.values())}] == []
    expected = None if store.is_distributed else "no distributed plan"
    found = [(objection(store.explain(sql, parameters)), sql) for sql, parameters in asked]
    assert [(said, sql) for said, sql in found if said != expected] == []


def test_no_upsert_sets_what_citus_refuses(worked):
    _, statements = worked
    for sql, _ in statements:
        changes = sql.partition("DO UPDATE SET")[2].partition("RETURNING")[0]
        assert not re.search(r"CURRENT_TIMESTAMP|\w\(", changes)


def test_a_statement_without_a_tenant_touches_every_shard(store):
    said = objection(store.explain(f"SELECT count(*) FROM {PREFIX}_invoices"))  # noqa: S608 - our own name
    assert said == (f"tasks: {SHARDS}" if store.is_distributed else "no distributed plan")
