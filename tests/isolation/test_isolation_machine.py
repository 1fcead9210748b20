"""Three tenants do anything in any order: what each sees and writes is what a plain dictionary per tenant says.

Seconds by default; ``DOTMAC_ISOLATION_MINUTES=10`` goes on for that long on each database.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from isolation_models import Label
from isolation_worlds import Kind, new_factory, secure
from sqlalchemy import delete, exists, func, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.util import await_only

from dotmac.database import (
    RequestContext,
    create_async_repository,
    create_repository,
    set_rls_context,
    use_context,
)
from dotmac.database.engine._sessions import placed_session
from dotmac.database.errors import DatabaseError, EntityNotFoundError, TenantError
from dotmac.database.tenancy import IsolationMode, Placement
from dotmac.database.tenancy._guard import switched_off

TENANTS = ("machine-a", "machine-b", "machine-c")
MINUTES = float(os.environ.get("DOTMAC_ISOLATION_MINUTES", "0"))
TABLES = [Label.__table__]
labels = Label.__table__

TENANT = st.sampled_from(TENANTS)
TITLE = st.integers(0, 10**6).map(lambda number: f"title {number}")
NUMBER = st.integers(0, 50)

KINDS = (
    Kind("sqlite", "pysqlite", is_async=False),
    Kind("sqlite", "aiosqlite", is_async=True),
    Kind("secured", "psycopg", is_async=False),
    Kind("secured", "asyncpg", is_async=True),
    Kind("schemas", "psycopg", is_async=False),
    Kind("schemas", "asyncpg", is_async=True),
)


@dataclass
class Place:
    """A database for the machine."""

    kind: Kind
    factory: Any
    runner: Any
    administrators: dict[str, Any]

    def run(self, work):
        if self.runner is None:
            return work()

        async def call():
            async with self.factory() as carrier:
                return await carrier.run_sync(lambda _: work())

        return self.runner.run(call())

    def session(self, tenant):
        """Blocking sessions are bound by the context, async ones by the call, where all share their tables."""
        is_called = self.kind.is_async and self.kind.database != "schemas"
        with use_context(RequestContext(tenant_id=None if is_called else tenant)):
            made = self.factory()
            if is_called:
                await_only(set_rls_context(made, tenant))
        session = getattr(made, "sync_session", made)
        session.info["repository"] = Awaited.of(made, tenant) if self.kind.is_async else None
        if self.kind.database == "schemas":
            placed_session(session, Placement(tenant, IsolationMode.SCHEMA, schema=tenant.replace("-", "_")))
        return session

    def rows(self):
        """Every tenant's rows, as the administrator sees them."""
        found = {tenant: {} for tenant in TENANTS}
        for engine in set(self.administrators.values()):
            with engine.connect() as connection:
                for tenant, key, title in connection.execute(
                    select(labels.c.tenant_id, labels.c.id, labels.c.name)
                ):
                    found[tenant][key] = title
        return found

    def clear(self):
        for engine in set(self.administrators.values()):
            with engine.begin() as connection:
                connection.execute(delete(labels))


class Awaited:
    """An async repository, called from within the greenlet of its session."""

    def __init__(self, repository):
        self._repository = repository

    @classmethod
    def of(cls, session, tenant):
        return lambda: cls(create_async_repository(session, Label, tenant))

    def __getattr__(self, name):
        method = getattr(self._repository, name)
        return lambda *arguments, **keywords: await_only(method(*arguments, **keywords))


def repository(session, tenant):
    """The tenant's, async where the driver is."""
    make = session.info["repository"]
    return make() if make else create_repository(session, Label, tenant)


@pytest.fixture(params=KINDS, ids=str)
def place(request, tmp_path):
    kind = request.param
    with ExitStack() as stack:

        def administrator(url, **arguments):
            engine = sqlalchemy.create_engine(url, **arguments)
            stack.callback(engine.dispose)
            return engine

        if kind.database == "sqlite":
            url = f"sqlite+{kind.driver}:///{tmp_path}/machine.db"
            engines = dict.fromkeys(TENANTS, administrator(f"sqlite:///{tmp_path}/machine.db"))
        else:
            server = request.getfixturevalue("dotmac_postgres")
            name = f"machine_{uuid.uuid4().hex[:12]}"
            server.create_database(name)
            stack.callback(server.drop_database, name)
            url = server.url(name, driver=kind.driver)
            if kind.database == "secured":
                engines = dict.fromkeys(
                    TENANTS, administrator(server.url(name, driver="psycopg", role="admin"))
                )
            else:
                engines = {
                    tenant: administrator(
                        server.url(name, driver="psycopg"),
                        connect_args={"options": f"-c search_path={tenant.replace('-', '_')}"},
                    )
                    for tenant in TENANTS
                }
        for tenant, engine in engines.items():
            with engine.begin() as connection:
                if kind.database == "schemas":
                    connection.execute(text(f"CREATE SCHEMA {tenant.replace('-', '_')}"))
                Label.metadata.create_all(connection, tables=TABLES)
                if kind.database == "secured" and tenant == TENANTS[0]:
                    secure(connection, sqlalchemy.make_url(server.url(name)).username, TABLES)
        runner = stack.enter_context(asyncio.Runner()) if kind.is_async else None
        yield Place(kind, new_factory(stack, runner, kind, url), runner, engines)


def machine_on(place):  # noqa: C901 - a machine is its rules
    """The machine's class for ``place``."""

    class Machine(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            place.clear()
            self.rows = {tenant: {} for tenant in TENANTS}
            self.sessions = {}
            self.made = 0

        def teardown(self):
            for session in self.sessions.values():
                place.run(session.close)
            place.clear()

        def all_keys(self):
            return sorted((key, tenant) for tenant, rows in self.rows.items() for key in rows)

        def work(self, tenant, act, *, around=None):
            """Do ``act`` in the tenant's session and commit; in ``around``'s context, as a stray one would be."""

            def call():
                if tenant not in self.sessions:
                    self.sessions[tenant] = place.session(tenant)
                session = self.sessions[tenant]
                stray = nullcontext() if around is None else use_context(RequestContext(tenant_id=around))
                with stray:
                    try:
                        result = act(session)
                        session.commit()
                    except BaseException:
                        session.rollback()
                        session.expunge_all()  # what failed must not be tried again
                        raise
                return result

            return place.run(call)

        def hostile(self, tenant, act):
            """Do what may be refused: what came of it, or None."""
            try:
                return self.work(tenant, act)
            except (DatabaseError, SQLAlchemyError):
                return None

        def new_key(self):
            self.made += 1
            return uuid.UUID(int=self.made)

        def some(self, number):
            keys = self.all_keys()
            return keys[number % len(keys)]

        @invariant()
        def every_tenant_has_its_rows(self):
            assert place.rows() == self.rows

        # Honest work is never refused.

        @rule(tenant=TENANT, title=TITLE, how=st.sampled_from(["add", "core", "orm", "repository", "many"]))
        def create(self, tenant, title, how):
            key = self.new_key()

            def act(session):
                if how == "add":
                    session.add(Label(id=key, name=title))
                    session.flush()
                elif how == "core":
                    session.execute(insert(labels).values(id=key, name=title))
                elif how == "orm":
                    session.execute(insert(Label), [{"id": key, "name": title}])
                elif how == "many":
                    repository(session, tenant).bulk_create([{"id": key, "name": title}])
                else:
                    repository(session, tenant).create({"id": key, "name": title})

            self.work(tenant, act)
            self.rows[tenant][key] = title

        @rule(
            tenant=TENANT,
            around=st.sampled_from([None, *TENANTS]),
            how=st.sampled_from(["orm", "core", "repository"]),
        )
        def read_all(self, tenant, around, how):
            def act(session):
                if how == "orm":
                    found = session.scalars(select(Label).execution_options(populate_existing=True)).all()
                elif how == "core":
                    found = session.execute(select(labels)).all()
                else:
                    session.expunge_all()
                    found = repository(session, tenant).list()
                return {row.id: row.name for row in found}

            # A repository refuses a context that contradicts it.
            assert self.work(tenant, act, around=around if how != "repository" else None) == self.rows[tenant]

        @rule(tenant=TENANT, how=st.sampled_from(["count", "subquery", "union", "repository", "join"]))
        def count(self, tenant, how):
            other = labels.alias()
            queries = {
                "count": select(func.count()).select_from(labels),
                "subquery": select(func.count()).select_from(select(Label.id).subquery()),
                "union": select(func.count()).select_from(
                    select(labels.c.id).union(select(Label.id)).subquery()
                ),
                "join": select(func.count()).select_from(labels.outerjoin(other, labels.c.id == other.c.id)),
            }

            def act(session):
                if how == "repository":
                    return repository(session, tenant).count()
                return session.scalar(queries[how])

            assert self.work(tenant, act) == len(self.rows[tenant])

        @rule(tenant=TENANT, title=TITLE)
        def update_all(self, tenant, title):
            self.work(tenant, lambda session: session.execute(update(Label).values(name=title)))
            self.rows[tenant] = dict.fromkeys(self.rows[tenant], title)

        @rule(tenant=TENANT)
        def delete_all(self, tenant):
            self.work(tenant, lambda session: session.execute(delete(labels)))
            self.work(tenant, lambda session: session.expunge_all())
            self.rows[tenant] = {}

        @rule(tenant=TENANT)
        def renew_the_session(self, tenant):
            if tenant in self.sessions:
                place.run(self.sessions.pop(tenant).close)

        # By a key that may be anybody's.

        @precondition(lambda self: self.all_keys())
        @rule(
            tenant=TENANT,
            number=NUMBER,
            how=st.sampled_from(["get", "select", "repository", "refresh", "exists"]),
        )
        def read_one(self, tenant, number, how):
            key, owner = self.some(number)

            def act(session):
                if how == "get":
                    found = session.get(Label, key, populate_existing=True)
                    return None if found is None else found.name
                if how == "select":
                    return session.scalar(select(labels.c.name).where(labels.c.id == key))
                if how == "exists":
                    there = session.scalar(select(exists().where(labels.c.id == key)))
                    return self.rows[owner][key] if there else None
                session.expunge_all()
                if how == "refresh":
                    return detached(session, key, owner).name
                found = repository(session, tenant).get_by_id(key)
                return None if found is None else found.name

            if owner == tenant:
                assert self.work(tenant, act) == self.rows[owner][key]
            else:
                assert self.hostile(tenant, act) is None

        @precondition(lambda self: self.all_keys())
        @rule(
            tenant=TENANT,
            number=NUMBER,
            title=TITLE,
            how=st.sampled_from(["core", "orm", "by key", "mapping", "repository", "flush", "upsert"]),
        )
        def update_one(self, tenant, number, title, how):
            key, owner = self.some(number)
            if how == "upsert" and owner != tenant and place.kind.database == "schemas":
                return  # there the key is free: it would be an own row

            def act(session):
                if how == "core":
                    session.execute(update(labels).where(labels.c.id == key).values(name=title))
                elif how == "orm":
                    session.execute(update(Label).where(Label.id == key).values(name=title))
                elif how == "by key":
                    session.execute(update(Label), [{"id": key, "name": title}])
                elif how == "mapping":
                    session.bulk_update_mappings(Label, [{"id": key, "name": title}])
                elif how == "repository":
                    repository(session, tenant).update(key, {"name": title})
                elif how == "flush":
                    session.expunge_all()
                    detached(session, key, owner).name = title
                    session.flush()
                else:
                    upsert(session, key, title)
                session.expunge_all()

            if owner == tenant:
                self.work(tenant, act)
                self.rows[owner][key] = title
            else:
                self.hostile(tenant, act)

        @precondition(lambda self: self.all_keys())
        @rule(tenant=TENANT, number=NUMBER, how=st.sampled_from(["core", "orm", "unit", "repository"]))
        def delete_one(self, tenant, number, how):
            key, owner = self.some(number)

            def act(session):
                if how == "core":
                    session.execute(delete(labels).where(labels.c.id == key))
                elif how == "orm":
                    session.execute(delete(Label).where(Label.id == key))
                elif how == "unit":
                    session.expunge_all()
                    session.delete(detached(session, key, owner))
                    session.flush()
                else:
                    try:
                        repository(session, tenant).delete(key, soft_delete=False)
                    except EntityNotFoundError:
                        assert owner != tenant
                session.expunge_all()

            if owner == tenant:
                self.work(tenant, act)
                del self.rows[owner][key]
            else:
                self.hostile(tenant, act)

        # What nobody may do.

        @rule(tenant=TENANT, other=TENANT, title=TITLE, how=st.sampled_from(["add", "core", "orm", "move"]))
        def write_for_another(self, tenant, other, title, how):
            if tenant == other:
                return
            values = {"id": self.new_key(), "name": title, "tenant_id": other}

            def act(session):
                if how == "add":
                    session.add(Label(**values))
                    session.flush()
                elif how == "core":
                    session.execute(insert(labels).values(**values))
                elif how == "orm":
                    session.execute(insert(Label), [values])
                else:
                    session.execute(update(labels).values(tenant_id=other))

            try:
                self.work(tenant, act)
            except (DatabaseError, SQLAlchemyError):
                return
            assert how == "move"  # of no row at all
            assert not self.rows[tenant]

        @rule(tenant=TENANT, statement=st.sampled_from([
            "SELECT name FROM attacked_labels",
            "SELECT name FROM attacked_labels WHERE 1 = 1 OR tenant_id <> ''",
            "WITH x AS (SELECT * FROM attacked_labels) SELECT name FROM x",
        ]))  # fmt: skip
        def read_by_text(self, tenant, statement):
            try:
                found = self.work(tenant, lambda session: session.scalars(text(statement)).all())
            except TenantError:
                return
            assert sorted(found) == sorted(self.rows[tenant].values())

        @rule(tenant=TENANT, statement=st.sampled_from([
            "UPDATE attacked_labels SET name = 'taken'",
            "SELECT set_config('app.tenant_id', 'machine-a', false)",
            "SET app.tenant_id = 'machine-b'",
            "TRUNCATE attacked_labels",
        ]))  # fmt: skip
        def write_by_text(self, tenant, statement):
            try:
                self.work(tenant, lambda session: session.execute(text(statement)))
            except (DatabaseError, SQLAlchemyError):
                return
            assert statement.startswith("UPDATE")
            self.rows[tenant] = dict.fromkeys(self.rows[tenant], "taken")

    return Machine


def detached(session, key, owner):
    """Anybody's row as an object that was loaded elsewhere, attached to ``session``."""
    board = Label(id=key, tenant_id=owner)
    sqlalchemy.orm.make_transient_to_detached(board)
    session.add(board)
    return board


def upsert(session, key, title):
    made = (sqlite if session.get_bind().dialect.name == "sqlite" else postgresql).insert(labels)
    session.execute(
        made.values(id=key, name=title).on_conflict_do_update(index_elements=["id"], set_={"name": title})
    )


def explore(place, *, minutes=0.0, examples=8, phases=(Phase.generate, Phase.shrink)):
    """Run the machine; returns how many times it was begun."""
    limits = settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        database=None,
        print_blob=False,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    end, rounds = time.monotonic() + minutes * 60, 0
    while rounds == 0 or time.monotonic() < end:
        run_state_machine_as_test(machine_on(place), settings=limits)
        rounds += 1
    return rounds * examples


def test_no_tenant_ever_meets_another(place):
    print(f"{place.kind}: {explore(place, minutes=MINUTES / len(KINDS))} examples")  # noqa: T201 - with -s, the figure


def test_the_machine_finds_a_guard_that_is_off(place):
    if place.kind.database != "sqlite":
        pytest.skip("there the server, or the schema, holds all the same")
    with switched_off(), pytest.raises(Exception, match=r"assert|NOT NULL|Falsified|tenant"):
        explore(place, examples=50, phases=(Phase.generate,))
