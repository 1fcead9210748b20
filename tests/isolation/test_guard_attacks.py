"""A plain SQLAlchemy session of one tenant, without row-level security, attacked through what statements may hold."""

from __future__ import annotations

import importlib
from functools import partial

import pytest
from sqlalchemy import (
    ForeignKey,
    String,
    column,
    create_engine,
    insert,
    literal,
    make_url,
    select,
    text,
    update,
    values,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from dotmac.database import RequestContext, use_context
from dotmac.database.errors import TenantMismatchError, UnprovableStatementError
from dotmac.database.tenancy import IsolationMode  # importing the room puts plain sessions under the guard

assert IsolationMode
REFUSED = (TenantMismatchError, UnprovableStatementError)


class Attacked(DeclarativeBase):
    pass


class Author(Attacked):
    __tablename__ = "attacked_authors"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(20))


class Page(Attacked):
    __tablename__ = "attacked_pages"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(20))
    author_id: Mapped[int] = mapped_column(ForeignKey("attacked_authors.id"))
    number: Mapped[int] = mapped_column(default=2)


class Word(Attacked):
    __tablename__ = "attacked_words"

    id: Mapped[int] = mapped_column(primary_key=True)


class Token(Attacked):
    __tablename__ = "2fa_attacked"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(20))


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mysql"])
def engine(request, tmp_path_factory):
    if request.param == "sqlite":
        engine = create_engine(f"sqlite:///{tmp_path_factory.mktemp('attacked')}/attacked.db")
    elif request.param == "postgresql":
        engine = create_engine(request.getfixturevalue("dotmac_database").url("psycopg"))
    else:
        engine = create_engine(make_url(request.getfixturevalue("mysql_url")).set(drivername="mysql+pymysql"))
    yield engine
    with engine.begin() as connection:
        Attacked.metadata.drop_all(connection)
    engine.dispose()


@pytest.fixture
def session(engine):
    """Authors 1 and 3 are acme's, 2 is globex's; page 1 is acme's, 2 globex's."""
    with engine.begin() as connection:
        Attacked.metadata.drop_all(connection)
        Attacked.metadata.create_all(connection)
        connection.execute(
            insert(Author.__table__),
            [
                {"id": number, "tenant_id": tenant, "name": f"of {tenant}"}
                for number, tenant in [(1, "acme"), (2, "globex"), (3, "acme")]
            ],
        )
        connection.execute(
            insert(Page.__table__),
            [
                {"id": 1, "tenant_id": "acme", "author_id": 1, "number": 2},
                {"id": 2, "tenant_id": "globex", "author_id": 2, "number": 2},
            ],
        )
        connection.execute(insert(Word.__table__), [{"id": 1}, {"id": 2}])
    with use_context(RequestContext(tenant_id="acme")), Session(engine) as session:
        yield session


def test_params_do_not_give_the_tenants_parameter_another_value(session):
    names = select(Author.__table__.c.name).order_by(Author.__table__.c.id).params(dotmac_tenant_1="globex")
    try:
        found = session.scalars(names).all()
    except UnprovableStatementError:
        return
    assert found == ["of acme", "of acme"]


class Impostor:
    """What an execution option could hold instead of the session's own work."""

    context = RequestContext(tenant_id="globex")
    placement = None
    verified = frozenset()

    def tell_if_changed(self, *_args):
        pass

    def tenant_for(self, *_args):
        return "globex"


@pytest.mark.parametrize("impostor", [Impostor(), RequestContext(tenant_id="globex"), None])
@pytest.mark.parametrize("where", ["call", "connection"])
def test_an_execution_option_does_not_bind_another_tenant(session, where, impostor):
    options = {"dotmac_context": impostor}
    names = select(Author.__table__.c.name)
    if where == "call":
        with pytest.raises(UnprovableStatementError):
            session.execute(names, execution_options=options)
        return
    connection = session.connection().execution_options(**options)
    with pytest.raises(UnprovableStatementError):
        connection.execute(names)


def conflict(engine, **changes):
    kind = importlib.import_module(f"sqlalchemy.dialects.{engine.dialect.name}").insert
    new = kind(Page).values(id=1, author_id=1, number=2)
    if engine.dialect.name == "mysql":
        return new.on_duplicate_key_update(**changes)
    return new.on_conflict_do_update(index_elements=["id"], set_=changes)


def numbers(statement, first=100):
    return insert(Page).from_select(["id", "author_id", "number"], statement(first))


def of_subquery(first):
    inner = select(literal(2).label("author")).subquery()
    return select(literal(first), inner.c.author, literal(1))


def of_cte(first):
    own = select(Author.id).cte("own")
    return select(own.c.id + first, own.c.id, literal(1))


ATTACKS_ON_REFERENCES = {
    "conflict": lambda engine: conflict(engine, author_id=2),
    "select of a shared table": lambda _: numbers(lambda first: select(Word.id + first, Word.id, literal(1))),
    "select of a subquery": lambda _: numbers(of_subquery),
    "insert of a scalar subquery": lambda _: insert(Page).values(
        id=9, author_id=select(Word.id).where(Word.id == 2).scalar_subquery(), number=1
    ),
    "update to a scalar subquery": lambda _: update(Page).values(
        author_id=select(Word.id).where(Word.id == 2).scalar_subquery()
    ),
    "update to another column": lambda _: update(Page).values(author_id=Page.number),
    "rows": lambda _: insert(Page).values(
        [{"id": 8, "author_id": 1, "number": 1}, {"id": 9, "author_id": 2, "number": 1}]
    ),
}


@pytest.mark.parametrize("attack", ATTACKS_ON_REFERENCES.values(), ids=ATTACKS_ON_REFERENCES)
def test_no_row_comes_to_refer_to_another_tenants(engine, session, attack):
    with pytest.raises(REFUSED):
        session.execute(attack(engine), execution_options={"synchronize_session": False})


HONEST_REFERENCES = {
    "key of the table": lambda _: numbers(lambda first: select(Author.id + first, Author.id, literal(1))),
    "key in a CTE": lambda _: numbers(of_cte),
    "what other rows refer to": lambda _: numbers(
        lambda first: select(Page.id + first, Page.author_id, literal(1))
    ),
    "greatest key": lambda _: update(Page).values(author_id=select(Author.id).limit(1).scalar_subquery()),
    "unchanged": lambda _: update(Page).values(author_id=Page.author_id),
    "rows": lambda _: insert(Page).values(
        [{"id": 8, "author_id": 1, "number": 1}, {"id": 9, "author_id": 3, "number": 1}]
    ),
    "conflict, another column": lambda engine: conflict(engine, number=7),
}


@pytest.mark.parametrize("work", HONEST_REFERENCES.values(), ids=HONEST_REFERENCES)
def test_rows_may_refer_to_the_tenants_own(engine, session, work):
    session.execute(work(engine), execution_options={"synchronize_session": False})
    session.commit()
    pages = session.execute(select(Page.tenant_id, Page.author_id)).all()
    assert {tenant for tenant, _ in pages} == {"acme"}
    assert {author for _, author in pages} <= {1, 3}


AUTHORS, PAGES, WORDS = Author.__table__, Page.__table__, Word.__table__
FURTHER_TABLES = {
    "tenant": update(WORDS).where(WORDS.c.id == PAGES.c.id).values({PAGES.c.tenant_id: "globex"}),
    "reference": update(AUTHORS).where(AUTHORS.c.id == PAGES.c.author_id).values({PAGES.c.author_id: 2}),
    "join": update(PAGES.join(AUTHORS, PAGES.c.author_id == AUTHORS.c.id)).values({PAGES.c.number: 77}),
}


@pytest.mark.parametrize("attack", FURTHER_TABLES.values(), ids=FURTHER_TABLES)
def test_an_update_of_several_tables_moves_no_row(session, attack):
    if session.get_bind().dialect.name != "mysql":
        pytest.skip("only MySQL updates several tables at once")
    with pytest.raises(REFUSED):
        session.execute(attack)


HIDDEN_NAMES = {
    "query in an array": "SELECT ARRAY[coalesce((SELECT min(name) FROM attacked_authors), '')]",
    "query in a place of an array": "SELECT ('{x}'::text[])[length((SELECT min(name) FROM attacked_authors))]",
    "name in single quotes": "SELECT name FROM 'attacked_authors'",
    "name in single quotes, behind a schema": "SELECT name FROM main.'attacked_authors'",
    "quote in brackets": "SELECT * FROM (SELECT name AS ['x] FROM attacked_authors) a, (SELECT 1 AS ['y]) b",
    "name of digits first": "SELECT id FROM 2fa_attacked",
    "name of digits first, behind a schema": "SELECT id FROM test.2fa_attacked",
}


@pytest.mark.parametrize("sql", HIDDEN_NAMES.values(), ids=HIDDEN_NAMES)
@pytest.mark.parametrize("how", ["whole", "driver", "pieces"])
def test_raw_sql_does_not_hide_the_name_of_a_table(engine, session, sql, how):
    if "'attacked" in sql and engine.dialect.name != "sqlite":
        pytest.skip("only SQLite takes text in single quotes for a name")
    work = {
        "whole": partial(session.execute, text(sql)),
        "driver": partial(session.connection().exec_driver_sql, sql),
        "pieces": partial(session.execute, select(text(sql.removeprefix("SELECT ")))),
    }
    with pytest.raises(UnprovableStatementError):
        work[how]()


def test_raw_sql_may_hold_arrays_and_texts(engine, session):
    if engine.dialect.name != "sqlite":
        assert session.scalar(text("SELECT 'attacked_authors'")) == "attacked_authors"
    if engine.dialect.name == "postgresql":
        array = text(r"SELECT (ARRAY['a', e'b\\c', '1.5'])[2] || (ARRAY[[1, 2], [3, 4]])[2][1]")
        assert session.scalar(array) == r"b\c3"


TOKENS = Token.__table__
NEW = {"id": 100, "name": "new"}
WITHOUT_TENANT = {
    "values": insert(AUTHORS).values(**NEW, tenant_id=None),
    "values, by model": insert(Author).values(**NEW, tenant_id=None),
    "list of values": insert(AUTHORS).values([{**NEW, "tenant_id": None}]),
    "from select": insert(AUTHORS).from_select(
        ["id", "name", "tenant_id"], select(literal(100), literal("new"), literal(None, String(20)))
    ),
    "update": update(AUTHORS).where(AUTHORS.c.id == 3).values(id=100, name="new", tenant_id=None),
}


@pytest.mark.parametrize("work", WITHOUT_TENANT.values(), ids=WITHOUT_TENANT)
@pytest.mark.parametrize("first", ["acme", None])
def test_a_statement_that_gives_none_for_the_tenant_is_filled_in(session, work, first):
    if first is not None:  # the same SQL, compiled for another value
        session.execute(insert(AUTHORS).values(id=99, name="first", tenant_id=first))
    session.execute(work)
    assert session.scalar(select(Author.tenant_id).where(Author.id == 100)) == "acme"


def test_a_statement_of_many_rows_can_be_sent_again(engine, session):
    statement = insert(TOKENS).values([{"id": 100}, {"id": 101}])
    session.execute(statement)
    session.rollback()
    session.execute(statement)
    session.rollback()
    with use_context(RequestContext(tenant_id="globex")), Session(engine) as other:
        other.execute(statement)
        assert other.scalars(select(TOKENS.c.tenant_id)).all() == ["globex", "globex"]


def upsert(engine, entity):
    kind = importlib.import_module(f"sqlalchemy.dialects.{engine.dialect.name}").insert
    new = kind(entity)
    if engine.dialect.name == "mysql":
        return new.on_duplicate_key_update(name=new.inserted.name)
    return new.on_conflict_do_update(index_elements=["id"], set_={"name": new.excluded.name})


UPSERTED = [{"id": key, "name": "new"} for key in (1, 2, 3, 100)]


@pytest.mark.parametrize("rows", [UPSERTED, UPSERTED[1:2]], ids=["many", "one"])
@pytest.mark.parametrize("given", [{}, {"tenant_id": "acme"}], ids=["filled", "given"])
def test_an_upsert_returns_no_row_of_another_tenant(engine, session, rows, given):
    statement = upsert(engine, AUTHORS).returning(AUTHORS.c.id, AUTHORS.c.tenant_id)
    rows = [{**row, **given} for row in rows]
    if engine.dialect.name == "mysql":  # MariaDB returns the row that is in the way
        with pytest.raises(UnprovableStatementError):
            session.execute(statement, rows)
        return
    found = session.execute(statement, rows).all()
    assert sorted(found) == [(row["id"], "acme") for row in rows if row["id"] != 2]


def test_the_tenant_is_not_written_into_a_statement(session):
    own = select(AUTHORS.c.name).where(AUTHORS.c.id == 1).scalar_subquery()
    rows = values(column("name", String), name="rows", literal_binds=True).data([(own,)])
    with pytest.raises(UnprovableStatementError):
        session.execute(select(rows))
