"""Rows read through a cache are what the database has, whoever changed them and however that transaction ended."""

from __future__ import annotations

import asyncio
import uuid

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from sqlalchemy import (
    ForeignKey,
    MetaData,
    String,
    delete,
    event,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.orm import Mapped, Session, mapped_column

from dotmac.database import (
    BaseModel,
    RequestContext,
    SoftDeleteMixin,
    TenantModel,
    create_async_engine,
    create_async_repository,
    create_engine,
    create_session_factory,
    tenant_foreign_key,
    tenant_unique,
    unscoped,
    use_context,
)
from dotmac.database.caching import CachePolicy, EntityCache, SmartCache
from dotmac.database.caching import _entity_sql as entity_sql
from dotmac.database.caching import _entity_writes as entity_writes
from dotmac.database.embedded import EmbeddedValkey
from dotmac.database.errors import EntityNotFoundError

PATIENT = CachePolicy(timeout_seconds=10)
TENANT = "acme"
METADATA = MetaData()


class Member(SoftDeleteMixin, TenantModel):
    __tablename__ = "entity_members"
    metadata = METADATA
    __table_args__ = (tenant_unique("email"),)

    email: Mapped[str] = mapped_column(String(50))
    name: Mapped[str] = mapped_column(String(50), default="old")


class Note(TenantModel):
    __tablename__ = "entity_notes"
    metadata = METADATA
    __table_args__ = (tenant_foreign_key("member_id", "entity_members", ondelete="CASCADE"),)

    member_id: Mapped[uuid.UUID]
    name: Mapped[str] = mapped_column(String(50), default="old")


class Country(BaseModel):
    __tablename__ = "entity_countries"
    metadata = METADATA

    code: Mapped[str] = mapped_column(String(2), unique=True)
    name: Mapped[str] = mapped_column(String(50), default="old")


class Town(BaseModel):
    __tablename__ = "entity_towns"
    metadata = METADATA

    country_code: Mapped[str | None] = mapped_column(
        ForeignKey("entity_countries.code", onupdate="CASCADE", ondelete="SET NULL")
    )


@pytest.fixture(scope="module")
def tables(dotmac_database):
    engine = create_engine(dotmac_database.url("psycopg"))
    METADATA.create_all(engine)
    yield
    METADATA.drop_all(engine)
    engine.dispose()


@pytest_asyncio.fixture(params=["asyncpg"])
async def engine(request, dotmac_database, tables):
    engine = create_async_engine(dotmac_database.url(request.param))
    async with engine.begin() as connection:
        await connection.execute(
            text("TRUNCATE entity_members, entity_notes, entity_countries, entity_towns")
        )
    yield engine
    await engine.dispose()


@pytest_asyncio.fixture
async def client(redis_url):
    async with Redis.from_url(redis_url) as client:
        yield client


class World:
    """A tenant with a member and a note, sessions, and a cache that has both."""

    def __init__(self, engine, client, policy=PATIENT):
        self.engine = engine
        self.sessions = create_session_factory(engine)
        prefix = f"entities-{uuid.uuid4().hex}"
        self.cache = SmartCache("rows", ttl=600, policy=policy, client=client, prefix=prefix)
        self.members = EntityCache.of(self.cache, Member)
        self.notes = EntityCache.of(self.cache, Note)
        self.countries = EntityCache.of(self.cache, Country)
        self.towns = EntityCache.of(self.cache, Town)

    def session(self, tenant=TENANT):
        with use_context(RequestContext(tenant_id=tenant)):
            return self.sessions()

    def operator(self):
        with unscoped("a test of sessions across tenants"):
            return self.sessions()

    def repository(self, session, model=Member):
        return create_async_repository(session, model, cache=self.cache)

    async def create(self):
        async with self.session() as session:
            member = await create_async_repository(session, Member).create({"email": "ada@acme.test"})
            self.member_id, self.email = member.id, member.email
            note = await create_async_repository(session, Note).create({"member_id": member.id})
            self.note_id = note.id
            await session.commit()

    async def warm(self):
        """Have both rows cached, which is checked."""
        for _ in range(2):
            before = self.hits()
            await self.read()
        assert self.hits() == before + 2

    def hits(self):
        return self.members.get_stats()["hits"] + self.notes.get_stats()["hits"]

    async def read(self, *, cached=True):
        """What the rows look like now: names, deletion and the note's."""
        async with self.session() as session:
            cache = self.cache if cached else None
            members = create_async_repository(session, Member, cache=cache)
            notes = create_async_repository(session, Note, cache=cache)
            member = await members.get_by_id(self.member_id)
            note = await notes.get_by_id(self.note_id)
            return member and (member.name, member.email), note and note.name


@pytest_asyncio.fixture
async def world(engine, client):
    caches = list(entity_writes._watched)
    world = World(engine, client)
    await world.create()
    await world.warm()
    yield world
    # A process has few caches; tests make many.
    entity_writes._watched[:] = caches or entity_writes._watched[:1]
    entity_writes._verdict_kept.cache_clear()


async def flush(world, session):
    (await session.get(Member, (TENANT, world.member_id))).name = "new"
    await session.flush()


async def unflushed(world, session):
    (await session.get(Member, (TENANT, world.member_id))).name = "new"


async def orm_delete(world, session):
    await session.delete(await session.get(Member, (TENANT, world.member_id)))
    await session.flush()


async def repository_update(world, session):
    await create_async_repository(session, Member).update(world.member_id, {"name": "new"})


async def cached_repository_update(world, session):
    await world.repository(session).update(world.member_id, {"name": "new"})


async def repository_delete(world, session):
    await create_async_repository(session, Member).delete(world.member_id)


async def repository_remove(world, session):
    await create_async_repository(session, Member).delete(world.member_id, soft_delete=False)


async def repository_bulk_update(world, session):
    await create_async_repository(session, Member).bulk_update([{"id": world.member_id, "name": "new"}])


async def repository_bulk_delete(world, session):
    await create_async_repository(session, Member).bulk_delete([world.member_id])


async def repository_bulk_remove(world, session):
    await create_async_repository(session, Member).bulk_delete([world.member_id], soft_delete=False)


async def repository_upsert(world, session):
    await create_async_repository(session, Member).upsert({"email": world.email, "name": "new"})


async def repository_upsert_many(world, session):
    await create_async_repository(session, Member).upsert_many(
        [{"email": world.email, "name": "new"}, {"email": "new@acme.test", "name": "new"}]
    )


async def natural_key(world, session):
    await create_async_repository(session, Member).update(world.member_id, {"email": "moved@acme.test"})


async def orm_update(world, session):
    await session.execute(update(Member).where(Member.id == world.member_id).values(name="new"))


async def orm_update_by_key(world, session):
    await session.execute(update(Member), [{"tenant_id": TENANT, "id": world.member_id, "name": "new"}])


async def bulk_mappings(world, session):
    rows = [{"tenant_id": TENANT, "id": world.member_id, "name": "new"}]
    await session.run_sync(lambda blocking: blocking.bulk_update_mappings(Member, rows))


async def orm_set_delete(world, session):
    await session.execute(delete(Member).where(Member.id == world.member_id))


async def core_update(world, session):
    table = Member.__table__
    await session.execute(update(table).where(table.c.id == world.member_id).values(name="new"))


async def connection_update(world, session):
    table = Member.__table__
    connection = await session.connection()
    await connection.execute(update(table).where(table.c.id == world.member_id).values(name="new"))


WRITES = [
    flush,
    unflushed,
    orm_delete,
    repository_update,
    cached_repository_update,
    repository_delete,
    repository_remove,
    repository_bulk_update,
    repository_bulk_delete,
    repository_bulk_remove,
    repository_upsert,
    repository_upsert_many,
    natural_key,
    orm_update,
    orm_update_by_key,
    bulk_mappings,
    orm_set_delete,
    core_update,
    connection_update,
]


@pytest.mark.parametrize("write", WRITES)
async def test_a_committed_change_is_seen_and_never_earlier(world, write):
    old = await world.read()
    async with world.session() as session:
        await write(world, session)
        before = world.hits()
        assert await world.read() == old
        assert world.hits() == before + 2
        await session.commit()
        new = await world.read()
    assert new != old
    assert new == await world.read(cached=False)


@pytest.mark.parametrize("write", WRITES)
async def test_a_change_that_is_rolled_back_is_read_inside_and_removes_nothing(world, write):
    old = await world.read()
    before = world.hits()
    async with world.session() as session:
        await write(world, session)
        if write is not unflushed:
            session.expunge_all()
        mine = await world.repository(session).get_by_id(world.member_id)
        assert mine is None or (mine.name, mine.email) != old[0]
        await session.rollback()
        savepoint = await session.begin_nested()
        await write(world, session)
        await savepoint.rollback()
        await session.commit()
    assert world.hits() == before
    assert await world.read() == old
    assert world.hits() == before + 2


@pytest.mark.parametrize(
    "write", [flush, repository_bulk_update, orm_update, orm_set_delete, connection_update]
)
async def test_a_change_in_a_savepoint_counts_once_the_transaction_is_committed(world, write):
    old = await world.read()
    async with world.session() as session:
        async with session.begin_nested():
            async with session.begin_nested():
                await write(world, session)
            assert await world.read() == old
        before = world.hits()
        assert await world.read() == old
        assert world.hits() == before + 2
        await session.commit()
    assert await world.read() == await world.read(cached=False) != old


RAW = {
    "UPDATE": "UPDATE entity_members SET name = 'new' WHERE tenant_id = 'acme'",
    "quoted UPDATE": """update public."entity_members" as m set name = 'new' where m.tenant_id = 'acme'""",
    "DELETE of a parent": "DELETE FROM entity_members WHERE tenant_id = 'acme'",
    "WITH": (
        "WITH changed AS (UPDATE entity_members SET name = 'new' WHERE tenant_id = 'acme' RETURNING id) "
        "SELECT count(*) FROM changed"
    ),
    "MERGE": (
        "MERGE INTO entity_members m USING (SELECT 'acme' AS t) s ON m.tenant_id = s.t "
        "WHEN MATCHED THEN UPDATE SET name = 'new'"
    ),
    "TRUNCATE": "TRUNCATE entity_members CASCADE",
    "DO": "DO $$ BEGIN UPDATE entity_members SET name = 'new'; END $$",
}


@pytest.mark.parametrize("sql", RAW.values(), ids=RAW)
@pytest.mark.parametrize("how", ["text", "driver SQL"])
async def test_text_sql_that_names_the_table_counts(world, sql, how):
    old = await world.read()
    async with world.operator() as session:
        if how == "text":
            await session.execute(text(sql))
        else:
            await (await session.connection()).exec_driver_sql(sql)
        assert await world.read() == old if not sql.startswith("TRUNCATE") else True
        await session.commit()
    assert await world.read() == await world.read(cached=False) != old


async def test_reading_sql_counts_for_nothing(world):
    async with world.operator() as session:
        await session.execute(text("SELECT name, 'update' AS word FROM entity_countries FOR NO KEY UPDATE"))
        await session.execute(select(Member).with_for_update())
        await session.execute(text("UPDATE entity_towns SET country_code = NULL"))
        await session.commit()
    before = world.hits()
    await world.read()
    assert world.hits() == before + 2


def change_blocking(world, session, how):
    if how == "flush":
        session.get(Member, (TENANT, world.member_id)).name = "new"
    elif how == "set-based":
        session.execute(update(Member).where(Member.id == world.member_id).values(name="new"))
    else:
        session.execute(delete(Member).where(Member.id == world.member_id))


@pytest.mark.parametrize("how", ["flush", "set-based", "delete"])
@pytest.mark.parametrize("where", ["in a thread", "on the event loop"])
async def test_a_blocking_session_removes_what_it_changes(world, dotmac_database, how, where):
    engine = create_engine(dotmac_database.url("psycopg"))
    old = await world.read()

    def write():
        with use_context(RequestContext(tenant_id=TENANT)), create_session_factory(engine)() as session:
            change_blocking(world, session, how)
            session.commit()

    await asyncio.to_thread(write) if where == "in a thread" else write()
    assert await world.read() == await world.read(cached=False) != old
    engine.dispose()


async def test_what_a_session_without_our_factory_changes_is_removed(world, dotmac_database):
    engine = create_engine(dotmac_database.url("psycopg"))
    with unscoped("a plain session"), Session(engine) as session:
        session.execute(text("UPDATE entity_members SET name = 'new'"))
        session.commit()
    assert await world.read() == (("new", world.email), "old")
    engine.dispose()


async def test_a_natural_key_is_read_through(world):
    async def find(email):
        async with world.session() as session:
            member = await world.repository(session).get_by_field("email", email)
            return member and member.name

    statements = []
    event.listen(
        world.engine.sync_engine, "before_cursor_execute", lambda *given: statements.append(given[2])
    )
    assert [await find(world.email) for _ in range(3)] == ["old"] * 3
    assert len([sql for sql in statements if "entity_members" in sql]) == 1
    assert await find("nobody@acme.test") is None
    async with world.session() as session:
        await create_async_repository(session, Member).update(world.member_id, {"email": "moved@acme.test"})
        other = await create_async_repository(session, Member).create({"email": world.email, "name": "other"})
        await session.commit()
    assert await find(world.email) == "other"
    assert await find("moved@acme.test") == "old"
    async with world.session() as session:
        await create_async_repository(session, Member).delete(other.id)
        await session.commit()
    assert await find(world.email) is None


async def test_a_restored_row_is_back(world):
    async with world.session() as session:
        await create_async_repository(session, Member).delete(world.member_id)
        await session.commit()
        assert (await world.read())[0] is None
        await create_async_repository(session, Member).restore(world.member_id)
        await session.commit()
    await world.warm()
    assert (await world.read())[0] == ("old", world.email)


@pytest.mark.parametrize("count", [3, 600], ids=["INSERT", "COPY"])
async def test_added_rows_are_seen_and_not_cached_before_commit(world, count):
    ids = [uuid.uuid4() for _ in range(count)]
    async with world.session() as session:
        repository = world.repository(session)
        assert await repository.get_by_id(ids[0]) is None
        await repository.bulk_create(
            [{"id": each, "email": f"{each}@acme.test"[:50]} for each in ids], returning=False
        )
        assert (await repository.get_by_id(ids[0])).name == "old"
        await session.rollback()
    async with world.session() as session:
        assert await world.repository(session).get_by_id(ids[0]) is None
        with pytest.raises(EntityNotFoundError):
            await world.repository(session).get_by_id_or_raise(ids[0])


async def test_rows_that_the_server_changes_through_foreign_keys_are_removed(world):
    async with world.operator() as session:
        session.add(Country(code="DE"))
        await session.flush()
        town = Town(country_code="DE")
        session.add(town)
        await session.commit()
        town_id = town.id

    async def code():
        async with world.operator() as session:
            return (await world.repository(session, Town).get_by_id(town_id)).country_code

    assert [await code(), await code()] == ["DE", "DE"]
    assert world.towns.get_stats()["hits"] >= 1
    async with world.operator() as session:
        (await session.scalars(select(Country))).one().code = "AT"
        await session.commit()
    assert [await code(), await code()] == ["AT", "AT"]
    async with world.operator() as session:
        await session.delete((await session.scalars(select(Country))).one())
        await session.commit()
    assert await code() is None


async def test_tenants_never_meet(world):
    async with world.session("globex") as session:
        assert await world.repository(session).get_by_id(world.member_id) is None
        await create_async_repository(session, Member).create(
            {"id": world.member_id, "email": world.email, "name": "g"}
        )
        await session.commit()
    for _ in range(3):
        for tenant, name in (("acme", "old"), ("globex", "g")):
            async with world.session(tenant) as session:
                assert (await world.repository(session).get_by_id(world.member_id)).name == name
                assert (await world.repository(session).get_by_field("email", world.email)).name == name
    before = world.hits()
    async with world.operator() as session:
        found = await world.repository(session).get_by_id(("acme", world.member_id))
        assert found.name == "old"
        assert world.hits() == before
        found.name = "new"
        await session.commit()
    assert (await world.read())[0][0] == "new"


async def test_a_hit_is_an_entity_of_the_session(world):
    async with world.session() as session:
        before = world.hits()
        member = await world.repository(session).get_by_id(world.member_id)
        assert world.hits() == before + 1
        assert world.engine.pool.checkedout() == 0
        state = inspect(member)
        assert state.persistent
        assert not state.modified
        assert not state.expired_attributes
        assert await world.repository(session).get_by_id(world.member_id) is member
        member.name = "new"
        await session.commit()
        await session.refresh(member)
        assert member.name == "new"
    assert (await world.read())[0][0] == "new"


async def test_what_a_session_holds_wins_and_is_never_stored(world):
    async with world.session() as session:
        session.sync_session.expire_on_commit = False
        mine = await create_async_repository(session, Member).get_by_id(world.member_id)
        await session.commit()
        async with world.session() as other:
            await repository_update(world, other)
            await other.commit()
        assert await world.repository(session).get_by_id(world.member_id) is mine
        assert mine.name == "old"
    assert (await world.read())[0][0] == "new"


@pytest.mark.parametrize("how", ["option", "statement"])
async def test_a_snapshot_neither_reads_nor_fills(world, how):
    async with world.operator() as session:
        session.add(country := Country(code="DE"))
        await session.commit()
        country_id = country.id

    async def rename():
        async with world.operator() as session:
            await create_async_repository(session, Country).update(country_id, {"name": "new"})
            await session.commit()

    async with world.operator() as session:
        if how == "option":
            await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        else:
            await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        await session.execute(select(func.count()).select_from(Country))
        await rename()
        assert (await world.repository(session, Country).get_by_id(country_id)).name == "old"
    async with world.operator() as session:
        assert (await world.repository(session, Country).get_by_id(country_id)).name == "new"


async def test_a_load_that_began_before_a_change_is_not_stored(world):
    await world.members.invalidate()
    async with world.session() as session:
        repository = world.repository(session)
        load = repository._run

        async def slow(steps):
            found = await load(steps)
            async with world.session() as other:
                await repository_update(world, other)
                await other.commit()
            return found

        repository._run = slow
        assert (await repository.get_by_id(world.member_id)).name == "old"
    assert (await world.read())[0][0] == "new"


async def test_a_writer_and_readers_see_nothing_stale(world):
    acknowledged, stale, reads = 0, [], 0
    is_done = False

    async def write():
        nonlocal acknowledged, is_done
        for number in range(1, 25):
            async with world.session() as session:
                name = f"{number:03}"
                if number % 2:
                    await create_async_repository(session, Member).update(world.member_id, {"name": name})
                else:
                    await session.execute(update(Member).values(name=name))
                await session.commit()
            acknowledged = number
        is_done = True

    async def read():
        nonlocal reads
        while not is_done:
            at_least = acknowledged
            async with world.session() as session:
                name = (await world.repository(session).get_by_id(world.member_id)).name
            reads += 1
            if at_least and (name == "old" or int(name) < at_least):
                stale.append((name, at_least))

    await asyncio.gather(write(), *[read() for _ in range(4)])
    assert stale == []
    assert reads > 0
    assert (await world.read())[0][0] == "024"


async def test_inserting_costs_the_cache_nothing(world):
    async with world.session() as session:
        await session.execute(insert(Member).values(tenant_id=TENANT, id=uuid.uuid4(), email="b@acme.test"))
        await session.commit()
    before = world.hits()
    await world.read()
    assert world.hits() == before + 2


async def test_a_flush_removes_its_rows_and_no_others(world):
    async with world.session() as session:
        other = await create_async_repository(session, Member).create({"email": "b@acme.test"})
        await session.commit()
        other_id = other.id
        session.expunge_all()
        for _ in range(2):
            session.expunge_all()
            await world.repository(session).get_by_id(other_id)
    before = world.hits()
    async with world.session() as session:
        (await session.get(Member, (TENANT, other_id))).name = "new"
        await session.commit()
    assert await world.read() == (("old", world.email), "old")
    assert world.hits() == before + 2
    async with world.session() as session:
        assert (await world.repository(session).get_by_id(other_id)).name == "new"


def blind_to_statements(monkeypatch):
    monkeypatch.setattr(entity_writes.Writes, "saw", lambda *_arguments: None)


def blind_to_entities(monkeypatch):
    monkeypatch.setattr(entity_writes.Level, "explain_nothing", lambda level: level.sent.clear())
    monkeypatch.setattr(
        entity_writes.Writes, "after_flush", lambda writes, _flush: writes._level().sent.clear()
    )


def blind_to_foreign_keys(monkeypatch):
    monkeypatch.setattr(entity_sql.Reach, "is_reached", lambda *_arguments: False)
    entity_writes._verdict_kept.cache_clear()


def forgetful_of_savepoints(monkeypatch):
    monkeypatch.setattr(entity_writes.Level, "take", lambda *_arguments: None)


async def in_savepoint(world, session):
    async with session.begin_nested():
        await orm_update(world, session)


@pytest.mark.parametrize(
    ("mutate", "write"),
    [
        (blind_to_statements, orm_update),
        (blind_to_statements, connection_update),
        (blind_to_entities, flush),
        (blind_to_entities, repository_update),
        (blind_to_foreign_keys, orm_set_delete),
        (forgetful_of_savepoints, in_savepoint),
    ],
)
async def test_each_part_is_needed(world, monkeypatch, mutate, write):
    mutate(monkeypatch)
    async with world.session() as session:
        await write(world, session)
        await session.commit()
    assert await world.read() != await world.read(cached=False)


async def test_a_cancelled_commit_has_removed_what_it_committed(world, monkeypatch):
    old = await world.read()
    async with world.session() as session:
        await repository_update(world, session)
        task = asyncio.create_task(session.commit())
        settle = world.members.settle

        async def settle_and_cancel(*given):
            task.cancel()
            await settle(*given)

        monkeypatch.setattr(world.members, "settle", settle_and_cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await world.read() == await world.read(cached=False) != old
    assert world.engine.pool.checkedout() == 0


async def test_damaged_rows_and_pointers_are_read_from_the_database(world, client):
    async def by_email():
        async with world.session() as session:
            member = await world.repository(session).get_by_field("email", world.email)
            return member.name, member.email

    wanted, named = await world.read(), await by_email()
    prefix = world.cache.made_with["prefix"]
    keys = [key async for key in client.scan_iter(f"{prefix}*:v:*")]
    assert len(keys) >= 3  # two rows, and the pointer of a natural key
    for key in keys:
        stored = await client.get(key)
        await client.set(key, stored[:-3] + b"\xff\xff\xff", keepttl=True)
    before = world.hits()
    assert (await world.read(), await by_email()) == (wanted, named)
    assert world.members.get_stats()["errors"] >= 2
    assert world.hits() == before
    await world.warm()


async def test_what_redis_could_not_be_told_is_read_from_the_database(engine, caplog):
    with EmbeddedValkey(tcp=True) as server:
        async with Redis.from_url(server.tcp_url) as client, Redis.from_url(server.tcp_url) as operator:
            world = World(engine, client, CachePolicy(timeout_seconds=1))
            await world.create()
            await world.warm()
            await operator.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
            async with world.session() as session:
                await repository_update(world, session)
                await session.commit()
            assert "could not be told" in caplog.text
            assert (await world.read())[0][0] == "new"
            await operator.execute_command("CLIENT", "UNPAUSE")
            world.members.server.breaker.reset()
            assert (await world.read())[0][0] == "new"
            await world.warm()
            assert (await world.read())[0][0] == "new"
