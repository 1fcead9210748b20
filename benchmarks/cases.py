"""What is compared: our repositories with plain SQLAlchemy, Core, raw asyncpg, advanced-alchemy and fastcrud."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Case
from benchmarks.models import Ticket, row
from sqlalchemy import func, insert, select, text

from dotmac.database import (
    AsyncRepository,
    CursorPaginationParams,
    FilterOperator,
    PaginationParams,
    QueryFilter,
    QueryOptions,
    SortField,
    SortOrder,
    uuid7,
)
from dotmac.database.models import describe
from dotmac.database.query import Cursors, as_options, total_order
from dotmac.database.query._cursor import fingerprint
from dotmac.database.tenancy import Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker


@dataclass
class Bench:
    """Where the cases run."""

    engine: AsyncEngine
    sessions: async_sessionmaker[AsyncSession]
    raw: asyncpg.Connection
    ids: list[Any]


def build(bench: Bench) -> list[Case]:
    """Every case on the small table."""
    return [
        _get(bench),
        _list(bench),
        _page(bench),
        _create(bench),
        _bulk_1000(bench),
        _bulk_100000(bench),
    ]


def _peers() -> dict[str, Any]:
    peers: dict[str, Any] = {}
    try:
        from advanced_alchemy.repository import SQLAlchemyAsyncRepository  # noqa: PLC0415

        class Repository(SQLAlchemyAsyncRepository[Ticket]):
            model_type = Ticket

        peers["advanced-alchemy"] = Repository
    except ImportError:
        pass
    try:
        from fastcrud import FastCRUD  # noqa: PLC0415

        peers["fastcrud"] = FastCRUD(Ticket)
    except ImportError:
        pass
    return peers


def _get(bench: Bench) -> Case:
    ids, sessions, peers = bench.ids, bench.sessions, _peers()

    async def plain(n: int) -> None:
        for i in range(n):
            async with sessions() as session:
                assert await session.get(Ticket, ids[i % len(ids)])

    async def ours(n: int) -> None:
        for i in range(n):
            async with sessions() as session:
                assert await AsyncRepository(session, Ticket).get_by_id(ids[i % len(ids)])

    async def core(n: int) -> None:
        table = Ticket.__table__
        for i in range(n):
            async with bench.engine.connect() as connection:
                result = await connection.execute(select(table).where(table.c.id == ids[i % len(ids)]))
                assert result.first()

    async def raw(n: int) -> None:
        for i in range(n):
            async with bench.raw.transaction():
                assert await bench.raw.fetchrow("SELECT * FROM tickets WHERE id = $1", ids[i % len(ids)])

    contenders = {"plain ORM": plain, "dotmac": ours, "Core": core, "raw asyncpg": raw}
    if "advanced-alchemy" in peers:

        async def advanced(n: int) -> None:
            for i in range(n):
                async with sessions() as session:
                    assert await peers["advanced-alchemy"](session=session).get(ids[i % len(ids)])

        contenders["advanced-alchemy"] = advanced
    if "fastcrud" in peers:

        async def fastcrud(n: int) -> None:
            for i in range(n):
                async with sessions() as session:
                    assert await peers["fastcrud"].get(session, id=ids[i % len(ids)])

        contenders["fastcrud"] = fastcrud
    return Case("get by id", contenders, times=200, bar=1.10)


_OPEN = QueryFilter(field="status", operator=FilterOperator.EQ, value="open")


def _list(bench: Bench) -> Case:
    sessions, peers = bench.sessions, _peers()

    async def plain(n: int) -> None:
        for _ in range(n):
            wanted = select(Ticket).where(Ticket.status == "open").order_by(Ticket.id).limit(20)
            async with sessions() as session:
                assert len((await session.scalars(wanted)).all()) == 20

    async def ours(n: int) -> None:
        for _ in range(n):
            async with sessions() as session:
                options = QueryOptions(filters=(_OPEN,), pagination=PaginationParams(per_page=20))
                assert len(await AsyncRepository(session, Ticket).list(options)) == 20

    async def core(n: int) -> None:
        table = Ticket.__table__
        for _ in range(n):
            wanted = select(table).where(table.c.status == "open").order_by(table.c.id).limit(20)
            async with bench.engine.connect() as connection:
                assert len((await connection.execute(wanted)).all()) == 20

    async def raw(n: int) -> None:
        for _ in range(n):
            async with bench.raw.transaction():
                rows = await bench.raw.fetch(
                    "SELECT * FROM tickets WHERE status = $1 ORDER BY id LIMIT 20", "open"
                )
                assert len(rows) == 20

    contenders = {"plain ORM": plain, "dotmac": ours, "Core": core, "raw asyncpg": raw}
    if "advanced-alchemy" in peers:
        from advanced_alchemy.filters import LimitOffset, OrderBy  # noqa: PLC0415

        async def advanced(n: int) -> None:
            for _ in range(n):
                async with sessions() as session:
                    repository = peers["advanced-alchemy"](session=session)
                    assert len(await repository.list(OrderBy("id"), LimitOffset(20, 0), status="open")) == 20

        contenders["advanced-alchemy"] = advanced
    if "fastcrud" in peers:

        async def fastcrud(n: int) -> None:
            for _ in range(n):
                async with sessions() as session:
                    found = await peers["fastcrud"].get_multi(
                        session, limit=20, sort_columns="id", status="open", return_total_count=False
                    )
                    assert len(found["data"]) == 20

        contenders["fastcrud"] = fastcrud
    return Case("list 20", contenders, times=100, bar=1.10)


def _page(bench: Bench) -> Case:
    sessions, peers = bench.sessions, _peers()

    async def plain(n: int) -> None:
        for _ in range(n):
            where = Ticket.status == "open"
            async with sessions() as session:
                rows = await session.scalars(
                    select(Ticket).where(where).order_by(Ticket.id).limit(20).offset(20)
                )
                total = await session.scalar(select(func.count()).select_from(Ticket).where(where))
                assert len(rows.all()) == 20
                assert total

    async def window(n: int) -> None:
        for _ in range(n):
            wanted = (
                select(Ticket, func.count().over())
                .where(Ticket.status == "open")
                .order_by(Ticket.id)
                .limit(20)
                .offset(20)
            )
            async with sessions() as session:
                assert len((await session.execute(wanted)).all()) == 20

    async def ours(n: int) -> None:
        for _ in range(n):
            async with sessions() as session:
                options = QueryOptions(filters=(_OPEN,), pagination=PaginationParams(page=2, per_page=20))
                page = await AsyncRepository(session, Ticket).list_paginated(options)
                assert len(page.items) == 20

    contenders = {"plain ORM": plain, "dotmac": ours, "plain ORM, window count": window}
    if "advanced-alchemy" in peers:
        from advanced_alchemy.filters import LimitOffset, OrderBy  # noqa: PLC0415

        async def advanced(n: int) -> None:
            for _ in range(n):
                async with sessions() as session:
                    repository = peers["advanced-alchemy"](session=session)
                    found, total = await repository.list_and_count(
                        OrderBy("id"), LimitOffset(20, 20), status="open"
                    )
                    assert len(found) == 20
                    assert total

        contenders["advanced-alchemy"] = advanced
    if "fastcrud" in peers:

        async def fastcrud(n: int) -> None:
            for _ in range(n):
                async with sessions() as session:
                    found = await peers["fastcrud"].get_multi(
                        session, offset=20, limit=20, sort_columns="id", status="open"
                    )
                    assert len(found["data"]) == 20

        contenders["fastcrud"] = fastcrud
    return Case("page 2 of 20, with count", contenders, times=60, bar=1.10)


def _create(bench: Bench) -> Case:
    sessions, peers = bench.sessions, _peers()

    async def plain(n: int) -> None:
        for i in range(n):
            async with sessions.begin() as session:
                ticket = Ticket(**row(i))
                session.add(ticket)
                await session.flush()
                assert ticket.created_at

    async def ours(n: int) -> None:
        for i in range(n):
            async with sessions.begin() as session:
                ticket = await AsyncRepository(session, Ticket).create(row(i))
                assert ticket.created_at

    async def core(n: int) -> None:
        for i in range(n):
            async with bench.engine.begin() as connection:
                result = await connection.execute(
                    insert(Ticket.__table__).values(row(i)).returning(Ticket.__table__.c.created_at)
                )
                assert result.scalar_one()

    async def raw(n: int) -> None:
        for i in range(n):
            fields = row(i)
            async with bench.raw.transaction():
                assert await bench.raw.fetchval(
                    "INSERT INTO tickets (id, title, status, priority, body) VALUES ($1, $2, $3, $4, $5) RETURNING created_at",
                    uuid7(), fields["title"], fields["status"], fields["priority"], fields["body"],
                )  # fmt: skip

    contenders = {"plain ORM": plain, "dotmac": ours, "Core": core, "raw asyncpg": raw}
    if "advanced-alchemy" in peers:

        async def advanced(n: int) -> None:
            for i in range(n):
                async with sessions.begin() as session:
                    ticket = await peers["advanced-alchemy"](session=session).add(Ticket(**row(i)))
                    assert ticket.created_at

        contenders["advanced-alchemy"] = advanced
    if "fastcrud" in peers:
        import pydantic  # noqa: PLC0415

        create = pydantic.create_model(
            "Create", title=(str, ...), status=(str, ...), priority=(int, ...), body=(str, ...)
        )

        async def fastcrud(n: int) -> None:
            for i in range(n):
                async with sessions() as session:
                    await peers["fastcrud"].create(session, create(**row(i)))

        contenders["fastcrud"] = fastcrud
    return Case("create", contenders, times=100, bar=1.15)


def _rolled_back(bench: Bench, work: Callable[[AsyncSession], Any]) -> Any:
    async def contender(n: int) -> None:
        for _ in range(n):
            async with bench.sessions() as session:
                await work(session)
                await session.rollback()

    return contender


def _bulk_1000(bench: Bench) -> Case:
    async def plain(session: AsyncSession) -> None:
        session.add_all([Ticket(**row(i)) for i in range(1000)])
        await session.flush()

    async def ours(session: AsyncSession) -> None:
        assert len(await AsyncRepository(session, Ticket).bulk_create([row(i) for i in range(1000)])) == 1000

    async def uncounted(session: AsyncSession) -> None:
        repository = AsyncRepository(session, Ticket)
        assert await repository.bulk_create([row(i) for i in range(1000)], returning=False) == 1000

    async def core(session: AsyncSession) -> None:
        await session.execute(insert(Ticket), [row(i) for i in range(1000)])

    contenders = {
        "plain ORM add_all": _rolled_back(bench, plain),
        "dotmac": _rolled_back(bench, ours),
        "dotmac, returning=False": _rolled_back(bench, uncounted),
        "ORM bulk insert": _rolled_back(bench, core),
    }
    if "advanced-alchemy" in _peers():

        async def advanced(session: AsyncSession) -> None:
            await _peers()["advanced-alchemy"](session=session).add_many(
                [Ticket(**row(i)) for i in range(1000)]
            )

        contenders["advanced-alchemy"] = _rolled_back(bench, advanced)
    return Case("bulk_create 1,000", contenders, times=2, bar=0.35)


def _bulk_100000(bench: Bench) -> Case:
    data = [row(i) for i in range(100_000)]

    async def raw(n: int) -> None:
        for _ in range(n):
            transaction = bench.raw.transaction()
            await transaction.start()
            records = [
                (uuid7(), item["title"], item["status"], item["priority"], item["body"]) for item in data
            ]
            columns = ["id", "title", "status", "priority", "body"]
            await bench.raw.copy_records_to_table("tickets", records=records, columns=columns)
            await transaction.rollback()

    async def ours(session: AsyncSession) -> None:
        assert await AsyncRepository(session, Ticket).bulk_create(data, returning=False) == 100_000

    async def clean() -> None:
        await bench.raw.execute("VACUUM tickets")

    contenders = {"raw asyncpg COPY": raw, "dotmac": _rolled_back(bench, ours)}
    return Case("bulk_create 100,000, returning=False", contenders, times=1, bar=1.5, after=clean)


async def deep_page(bench: Bench, rows: int) -> Case:
    """First page and the page at row ``rows``, by cursor; fills the table first."""
    await bench.raw.execute(
        "INSERT INTO tickets (id, title, status, priority, body, created_at) SELECT gen_random_uuid(), 'filler', "
        "'filler', 0, NULL, timestamptz '2020-01-01' + g * interval '1 second' FROM generate_series(1, $1) g",
        rows + 10_000,
    )
    await bench.raw.execute("VACUUM ANALYZE tickets")
    sorts = (SortField(field="created_at", order=SortOrder.ASC),)

    def options(cursor: str | None) -> QueryOptions:
        return QueryOptions(sorts=sorts, cursor_pagination=CursorPaginationParams(limit=20, cursor=cursor))

    async with bench.sessions() as session:
        deep = await _cursor_at(session, rows)

    def at(cursor: str | None) -> Any:
        async def contender(n: int) -> None:
            for _ in range(n):
                async with bench.sessions() as session:
                    page = await AsyncRepository(session, Ticket).cursor_paginate(options(cursor))
                    assert len(page.items) == 20

        return contender

    async def offset(n: int) -> None:
        for _ in range(n):
            async with bench.sessions() as session:
                wanted = select(Ticket).order_by(Ticket.created_at, Ticket.id).limit(20).offset(rows)
                assert len((await session.scalars(wanted)).all()) == 20

    contenders = {"first page": at(None), "dotmac": at(deep), "plain ORM, OFFSET": offset}
    return Case(f"cursor page at row {rows:,}", contenders, times=5, bar=1.3)


async def _cursor_at(session: AsyncSession, rows: int) -> str:
    """The cursor that a client holds after ``rows`` rows: the last page's before it, from the library itself."""
    when = await session.scalar(
        text("SELECT created_at FROM tickets ORDER BY created_at, id OFFSET :n LIMIT 1"), {"n": rows - 1}
    )
    shape = describe(Ticket)
    wanted = as_options({"sorts": [{"field": "created_at"}]})
    keys = total_order(shape, wanted.sorts)
    ticket = await session.scalar(select(Ticket).where(Ticket.created_at == when).limit(1))
    position = [getattr(ticket, key.name) for key in keys]
    return Cursors(shape, keys, fingerprint(shape, keys, wanted, Scope()), None).encode(position, "after")
