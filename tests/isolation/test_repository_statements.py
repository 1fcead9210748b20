"""Every statement a repository has the server run names the tenant, for every table of tenants in it: it stays on one shard."""

from __future__ import annotations

import contextlib
import inspect
import re
import uuid  # noqa: TC003 - the mapper evaluates annotations

import pytest
from sqlalchemy import ForeignKey, String, UniqueConstraint, event
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import Mapped, mapped_column, relationship
from sqlalchemy.schema import CreateIndex, CreateTable

from dotmac.database import (
    Base,
    BaseModel,
    BaseTenantRepository,
    CountMode,
    FilterOperator,
    SoftDeleteMixin,
    TenantAwareMixin,
    TenantModel,
    create_engine,
    create_session_factory,
    tenant_foreign_key,
    tenant_unique,
)
from dotmac.database.query import Copy
from dotmac.database.tenancy._guard import switched_off

PREFIX = "oneshard_"


class OneShard(Base):
    metadata = Base.metadata.__class__(naming_convention=Base.metadata.naming_convention)

    @classmethod
    def get_table_prefix(cls):
        return PREFIX


class Shelf(OneShard, SoftDeleteMixin, TenantModel):
    __tablename__ = "shelves"
    __table_args__ = (tenant_unique("name"),)

    name: Mapped[str] = mapped_column(String(50))
    height: Mapped[int | None]
    books: Mapped[list[Book]] = relationship(
        lambda: Book, back_populates="shelf", cascade="all, delete-orphan"
    )


class Book(OneShard, SoftDeleteMixin, TenantModel):
    __tablename__ = "books"
    __table_args__ = (tenant_foreign_key("shelf_id", "oneshard_shelves"),)

    name: Mapped[str] = mapped_column(String(50))
    shelf_id: Mapped[uuid.UUID]
    shelf: Mapped[Shelf] = relationship(lambda: Shelf, back_populates="books")


class Crate(OneShard, SoftDeleteMixin, TenantAwareMixin, BaseModel):
    __tablename__ = "crates"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    name: Mapped[str] = mapped_column(String(50))
    height: Mapped[int | None]
    books: Mapped[list[Tin]] = relationship(lambda: Tin, back_populates="shelf", cascade="all, delete-orphan")


class Tin(OneShard, SoftDeleteMixin, TenantAwareMixin, BaseModel):
    __tablename__ = "tins"

    name: Mapped[str] = mapped_column(String(50))
    shelf_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("oneshard_crates.id"))
    shelf: Mapped[Crate] = relationship(lambda: Crate, back_populates="books")


# The models, and whether the guard is on: each of the two, repositories and guard, has to be enough where it can be.
SETTINGS = {
    "TenantModel": (Shelf, True),
    "TenantModel, no guard": (Shelf, False),
    "TenantAwareMixin": (Crate, True),
}
RELATED = [{"field": "books.name", "value": "x"}]


def filters_of(column, value):
    return {
        f"list filtered {operator}": (
            lambda repo, _row, operator=operator: repo.list(
                {"filters": [{"field": column, "operator": operator, "value": value(operator)}]}
            )
        )
        for operator in FilterOperator
        if value(operator) is not ...
    }


def value_for(operator):
    name = operator.value
    if name in {"in", "not_in"}:
        return [1, 2]
    if "between" in name:
        return [1, 2]
    if "null" in name:
        return None
    return 1 if name in {"eq", "ne", "gt", "gte", "lt", "lte"} else ...


# Every method, with the options that make it another statement.
WORK = {
    "create": lambda repo, _row: repo.create({"name": "new"}),
    "create with related": lambda repo, row: repo.create({"name": "new", "books": [related_of(type(row))]}),
    "get_by_id": lambda repo, row: repo.get_by_id(row.id),
    "get_by_id deleted": lambda repo, row: repo.get_by_id(row.id, include_deleted=True),
    "get_by_id load": lambda repo, row: repo.get_by_id(row.id, load=["books"]),
    "get_by_id_or_raise": lambda repo, row: repo.get_by_id_or_raise(row.id),
    "get_by_field": lambda repo, row: repo.get_by_field("name", row.name),
    "get_by_field deleted": lambda repo, row: repo.get_by_field("name", row.name, include_deleted=True),
    "update": lambda repo, row: repo.update(row.id, {"height": 3}),
    "delete": lambda repo, row: repo.delete(row.id),
    "delete hard": lambda repo, row: repo.delete(row.id, soft_delete=False),
    "restore": lambda repo, row: (repo.delete(row.id), repo.restore(row.id)),
    "list": lambda repo, _row: repo.list(),
    "list deleted": lambda repo, _row: repo.list({"include_deleted": True}),
    "list sorted": lambda repo, _row: repo.list({"sorts": [{"field": "height"}, {"field": "name"}]}),
    "list load": lambda repo, _row: repo.list({"load": ["books"]}),
    "list related": lambda repo, _row: repo.list({"filters": RELATED}),
    "list groups": lambda repo, _row: repo.list(
        {"filters": [{"any_of": [*RELATED, {"field": "height", "value": 1}], "none_of": RELATED}]}
    ),
    **filters_of("height", value_for),
    **{
        f"list_paginated {mode}": (
            lambda repo, _row, mode=mode: repo.list_paginated(
                {"filters": RELATED, "pagination": {"page": 2, "per_page": 1, "count": mode}}
            )
        )
        for mode in CountMode
    },
    "cursor_paginate": lambda repo, _row: walk(repo),
    "count": lambda repo, _row: repo.count(RELATED, include_deleted=True),
    "exists": lambda repo, _row: repo.exists(RELATED),
    "bulk_create": lambda repo, _row: repo.bulk_create([{"name": "n1"}, {"name": "n2"}]),
    "bulk_create uncounted": lambda repo, _row: repo.bulk_create([{"name": "n1"}], returning=False),
    "bulk_update": lambda repo, row: repo.bulk_update([{"id": row.id, "height": 4}]),
    "bulk_delete": lambda repo, row: repo.bulk_delete([row.id]),
    "bulk_delete hard": lambda repo, _row: repo.bulk_delete(
        [repo.create({"name": "three"}).id], soft_delete=False
    ),
    "upsert new": lambda repo, _row: repo.upsert({"name": "new"}),
    "upsert known": lambda repo, row: repo.upsert({"name": row.name, "height": 5}),
    "upsert_many": lambda repo, row: repo.upsert_many([{"name": row.name}, {"name": "new"}], match=["name"]),
    "get_or_create new": lambda repo, _row: repo.get_or_create({"name": "new"}),
    "get_or_create known": lambda repo, row: repo.get_or_create({"name": row.name}, {"height": 1}),
    "stream": lambda repo, _row: list(repo.stream({"filters": RELATED}, batch_size=1)),
}


def walk(repo):
    options = {"sorts": [{"field": "height"}], "cursor_pagination": {"limit": 1}}
    page = repo.cursor_paginate(options)
    options["cursor_pagination"] = {"limit": 1, "cursor": page.next_cursor}
    return repo.cursor_paginate(options)


def test_every_method_of_a_repository_is_at_work_here():
    methods = {name for name, _ in inspect.getmembers(BaseTenantRepository, inspect.isfunction)}
    assert {name for name in methods if not name.startswith("_")} == {name.split()[0] for name in WORK}


PARAMETER = r"%\(\w+\)s|%s|\$\d+|(?<!:):[a-z]\w*"


def untenanted(sql):
    """The tables of tenants in ``sql`` that no equality with a parameter keeps to a tenant, by what they are called there."""
    sql = re.sub(PARAMETER, "?", re.sub(r'["`]', "", sql))
    sql = re.sub(r"\?::\w+", "?", sql)
    if sql.endswith("WHERE 0 = 1"):
        return []  # it takes SQLite's lock and touches no row
    missing = []
    if found := re.match(rf"\s*INSERT (?:IGNORE )?INTO ({PREFIX}\w+) (?:AS \w+ )?\(([^)]*)\)", sql):
        if "tenant_id" not in re.split(r",\s*", found[2]):
            missing.append(found[1])
        sql = re.sub(r" RETURNING .*", "", sql[found.end() :], flags=re.DOTALL)
    places = re.findall(rf"\b(?:FROM|JOIN|USING|UPDATE|,)\s+\(*({PREFIX}\w+)(?: AS (\w+))?(?![\w.])", sql)
    for name in {alias or table for table, alias in places}:
        wanted = sum(name == (alias or table) for table, alias in places)
        kept = rf"(?<![\w.]){name}\.tenant_id = \?|\? = {name}\.tenant_id(?!\w)"
        if len(re.findall(kept, sql)) < wanted:
            missing.append(name)
    return missing


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT oneshard_books.id FROM oneshard_books WHERE oneshard_books.id = ?",
        "SELECT b.id FROM oneshard_books AS b WHERE b.tenant_id != $1",
        "SELECT a.id FROM oneshard_books AS a JOIN oneshard_shelves AS b ON a.x = b.x WHERE a.tenant_id = $1",
        "SELECT 1 FROM oneshard_books WHERE oneshard_books.tenant_id = ? AND EXISTS (SELECT 1 FROM oneshard_books)",
        "UPDATE oneshard_books SET name=%s WHERE oneshard_books.id = %s",
        "DELETE FROM oneshard_books",
        "INSERT INTO oneshard_books (id, name) VALUES (?, ?)",
    ],
)
def test_a_statement_that_drops_the_tenant_is_noticed(sql):
    assert untenanted(sql)


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mysql"])
def engine(request, tmp_path_factory):
    if request.param == "sqlite":
        engine = create_engine(f"sqlite:///{tmp_path_factory.mktemp('oneshard')}/oneshard.db")
    elif request.param == "postgresql":
        engine = create_engine(request.getfixturevalue("dotmac_database").url("psycopg"))
    else:
        url = request.getfixturevalue("mysql_url")
        engine = create_engine(re.sub(r"^\w+(\+\w+)?:", "mysql+pymysql:", url))
    with engine.begin() as connection:
        OneShard.metadata.drop_all(connection)
        OneShard.metadata.create_all(connection)
    yield engine
    with engine.begin() as connection:
        OneShard.metadata.drop_all(connection)
    engine.dispose()


@pytest.fixture
def statements(engine):
    """What is sent to the server: of TenantModels and the like, each statement once."""
    sent = []

    def note(_connection, _cursor, statement, _parameters, _context, _many):
        if PREFIX in statement:
            sent.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", WORK)
def test_every_statement_names_the_tenant_of_every_table(engine, statements, name, setting):
    model, is_guarded = SETTINGS[setting]
    guard = contextlib.nullcontext() if is_guarded else switched_off()
    with guard, create_session_factory(engine)() as session:
        repo = BaseTenantRepository(session, model, "acme")
        row = repo.create({"name": "one", "height": 1, "books": [related_of(model)]})
        repo.create({"name": "two", "height": 2})
        session.expunge_all()
        statements.clear()
        WORK[name](repo, row)
        session.flush()
    assert statements
    wrong = {sql: missing for sql in statements if (missing := untenanted(sql))}
    assert not wrong


def related_of(model):
    return model.books.property.mapper.class_(name="x")


@pytest.mark.parametrize("model", [Shelf, Crate])
def test_rows_sent_as_copy_hold_the_tenant(engine, model):
    with create_session_factory(engine)() as session:
        repo = BaseTenantRepository(session, model, "acme")
        step = next(repo._operations.bulk_insert([{"name": f"n{i}"} for i in range(600)], None))
        if engine.dialect.name != "postgresql":
            assert not isinstance(step, Copy)
            return
        at = list(step.columns).index("tenant_id")
        assert {record[at] for record in step.records} == {"acme"}


DIALECTS = {"postgresql": postgresql.dialect(), "sqlite": sqlite.dialect(), "mysql": mysql.dialect()}


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
@pytest.mark.parametrize("model", [Shelf, Book])
def test_keys_and_references_of_a_tenant_model_carry_the_tenant(model, dialect):
    ddl = str(CreateTable(model.__table__).compile(dialect=dialect)).replace("`", "")
    keys = re.findall(r"(?:PRIMARY KEY|UNIQUE|FOREIGN KEY)\s*\(([^)]*)\)", ddl)
    assert len(keys) == 2
    assert all(re.split(r",\s*", key)[0] == "tenant_id" for key in keys)
    for target in re.findall(r"REFERENCES \S+ \(([^)]*)\)", ddl):
        assert re.split(r",\s*", target)[0] == "tenant_id"
    for index in model.__table__.indexes:
        if index.unique:
            assert "tenant_id" in str(CreateIndex(index).compile(dialect=dialect))


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
@pytest.mark.parametrize("model", [Shelf, Book, Crate, Tin])
def test_no_row_asks_a_sequence_that_tenants_share(model, dialect):
    ddl = str(CreateTable(model.__table__).compile(dialect=dialect)).upper()
    for word in ("SERIAL", "IDENTITY", "NEXTVAL", "AUTO_INCREMENT", "AUTOINCREMENT"):
        assert word not in ddl
    assert not any(column.default is not None and column.default.is_sequence for column in model.__table__.c)
