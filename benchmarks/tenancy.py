"""What tenancy costs: row-level security and the guard beside the same work without, and the guard alone.

    scripts/bench tenancy [--rounds N] [--only TEXT] [--json]

The guard is switched off for the whole process, so contenders run one after another and each switches for itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Case, micros, ratio, run
from benchmarks.models import row
from sqlalchemy import MetaData, String, create_engine, insert, select, text
from sqlalchemy.orm import Mapped, mapped_column

from dotmac.database import (
    AsyncRepository,
    Base,
    BaseModel,
    FilterOperator,
    PaginationParams,
    QueryFilter,
    QueryOptions,
    RequestContext,
    TenantModel,
    create_async_engine,
    create_session_factory,
    use_context,
    uuid7,
)
from dotmac.database.embedded import EmbeddedPostgres
from dotmac.database.tenancy import enable_row_level_security
from dotmac.database.tenancy._guard import switched_off

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.harness import Contender
    from sqlalchemy.engine import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
    from sqlalchemy.orm import Session

TENANTS = [f"tenant-{number}" for number in range(20)]
MINE = RequestContext(tenant_id=TENANTS[7])
ROWS = 10_000


class _Metadata(Base):
    metadata = MetaData()


class _Fields:
    title: Mapped[str] = mapped_column(String(200))
    status: Mapped[str] = mapped_column(String(20), index=True)
    priority: Mapped[int]
    body: Mapped[str | None] = mapped_column(String(2000))


class Secured(_Fields, _Metadata, TenantModel):
    """With row-level security."""

    __tablename__ = "bench_secured"


class Guarded(_Fields, _Metadata, TenantModel):
    """Kept by the guard alone."""

    __tablename__ = "bench_guarded"


class Open(_Fields, _Metadata, BaseModel):
    """The same table, of which nothing knows that its rows are tenants'."""

    __tablename__ = "bench_open"
    __tenant_scoped__ = False

    tenant_id: Mapped[str] = mapped_column(String(63))


class _Elsewhere(Base):
    metadata = MetaData()


class Unknowing(_Fields, _Elsewhere, BaseModel):
    """The table with row-level security, to code that leaves everything to the server."""

    __tablename__ = "bench_secured"
    __tenant_scoped__ = False

    tenant_id: Mapped[str] = mapped_column(String(63))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tenancy", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=151, help="counted rounds of each comparison (default 151)"
    )
    parser.add_argument("--only", default="", help="only comparisons whose name contains this")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--pg-url", help="an empty database of a superuser's, instead of the embedded server's"
    )
    parser.add_argument("--app-url", help="the same database as the application's user, with --pg-url")
    options = parser.parse_args()
    server: Any = nullcontext() if options.pg_url else EmbeddedPostgres()
    with server:
        admin = options.pg_url or server.url(role="admin", driver=None)
        app = options.app_url or server.url(driver=None)
        report = asyncio.run(_compare(admin, app, options))
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(
        "| comparison | contender | wall | CPU | wall ratio | CPU ratio | bar |\n|---|---|--:|--:|--:|--:|--:|"
    )
    for entry in report:
        for position, (name, *figures) in enumerate(entry["contenders"]):
            wall, cpu, wall_ratio, cpu_ratio = figures
            ours = name == "dotmac"
            print(
                f"| {'' if position else entry['case']} | {'**dotmac**' if ours else name} | {wall:,.0f} µs "
                f"| {cpu:,.0f} µs | {wall_ratio:.2f} | {cpu_ratio:.2f} | {entry['bar'] if ours else ''} |"
            )


async def _compare(admin: str, app: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    ids = await _prepare(admin, app)
    engines = {
        driver: create_async_engine(_with_driver(app, driver), pool_size=2)
        for driver in ("asyncpg", "psycopg")
    }
    cases = [case for driver, engine in engines.items() for case in _secured(driver, engine, ids)]
    cases += _guard_alone(engines["asyncpg"], ids[Guarded])
    sqlite = create_engine("sqlite://")
    cases += _guard_alone_on_sqlite(sqlite)
    report = []
    for case in cases:
        if options.only not in case.name:
            continue
        timings = await run(case, options.rounds)
        baseline = next(iter(timings.values()))
        report.append(
            {
                "case": case.name,
                "bar": f"≤ {case.bar:.2f}",
                "contenders": [
                    (
                        name,
                        round(micros(timing.wall), 1),
                        round(micros(timing.cpu), 1),
                        round(ratio(timing, baseline, "wall"), 3),
                        round(ratio(timing, baseline, "cpu"), 3),
                    )
                    for name, timing in timings.items()
                ],
            }
        )
    for engine in engines.values():
        await engine.dispose()
    sqlite.dispose()
    return report


def _with_driver(url: str, driver: str) -> str:
    return f"postgresql+{driver}://{url.partition('://')[2]}"


async def _prepare(admin: str, app: str) -> dict[Any, list[Any]]:
    """The tables, as their owner; the application's user owns none of them."""
    owner = create_async_engine(_with_driver(admin, "asyncpg"))
    application = create_async_engine(_with_driver(app, "asyncpg"))
    async with application.connect() as connection:
        role = await connection.scalar(text("SELECT current_user"))
    await application.dispose()
    ids: dict[Any, list[Any]] = {}
    async with owner.begin() as connection:
        await connection.run_sync(_Metadata.metadata.drop_all)
        await connection.run_sync(_Metadata.metadata.create_all)
        for model in (Secured, Guarded, Open):
            rows = [
                {**row(number), "id": uuid7(), "tenant_id": TENANTS[number % len(TENANTS)]}
                for number in range(ROWS)
            ]
            await connection.execute(insert(model.__table__), rows)
            ids[model] = [item["id"] for item in rows if item["tenant_id"] == MINE.tenant_id]
            await connection.execute(
                text(f'GRANT SELECT, INSERT, UPDATE, DELETE ON {model.__tablename__} TO "{role}"')
            )
        await connection.run_sync(enable_row_level_security, [Secured.__table__])
    async with owner.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM ANALYZE"))
    await owner.dispose()
    return ids


# Row-level security and the guard, beside neither


def _secured(driver: str, engine: AsyncEngine, ids: dict[Any, list[Any]]) -> list[Case]:
    works = {"get by id": _get, "list 20": _list, "create": _create}
    return [
        Case(
            f"{name}, row-level security, {driver}",
            {
                "without tenancy": _without(engine, work, Open, ids[Open]),
                "dotmac": _as_tenant(engine, work, Secured, ids[Secured]),
                "set_config in a message of its own": _with_set_config(engine, work, Unknowing, ids[Secured]),
            },
            times=10,
            bar=1.10,
        )
        for name, work in works.items()
    ]


_OPEN = QueryFilter(field="status", operator=FilterOperator.EQ, value="open")


async def _get(session: AsyncSession, model: Any, ids: list[Any], i: int, _tenant: dict[str, Any]) -> None:
    assert await AsyncRepository(session, model).get_by_id(ids[i % len(ids)])


async def _list(session: AsyncSession, model: Any, _ids: list[Any], _i: int, _tenant: dict[str, Any]) -> None:
    options = QueryOptions(filters=(_OPEN,), pagination=PaginationParams(per_page=20))
    assert len(await AsyncRepository(session, model).list(options)) == 20


async def _create(session: AsyncSession, model: Any, _ids: list[Any], i: int, tenant: dict[str, Any]) -> None:
    assert (await AsyncRepository(session, model).create({**row(i), **tenant})).created_at
    await session.commit()


def _without(engine: AsyncEngine, work: Any, model: Any, ids: list[Any]) -> Contender:
    sessions = create_session_factory(engine)
    tenant = {"tenant_id": MINE.tenant_id}

    async def contender(n: int) -> None:
        with switched_off():
            for i in range(n):
                async with sessions() as session:
                    await work(session, model, ids, i, tenant)

    return contender


def _as_tenant(engine: AsyncEngine, work: Any, model: Any, ids: list[Any]) -> Contender:
    sessions = create_session_factory(engine)

    async def contender(n: int) -> None:
        with use_context(MINE):
            for i in range(n):
                async with sessions() as session:
                    await work(session, model, ids, i, {})

    return contender


def _with_set_config(engine: AsyncEngine, work: Any, model: Any, ids: list[Any]) -> Contender:
    """As it is often written: no guard, and the server is told in a statement of its own."""
    sessions = create_session_factory(engine)
    tell = text("SELECT set_config('app.tenant_id', :tenant_id, true)")
    tenant = {"tenant_id": MINE.tenant_id}

    async def contender(n: int) -> None:
        with switched_off():
            for i in range(n):
                async with sessions() as session:
                    await session.execute(tell, tenant)
                    await work(session, model, ids, i, tenant)

    return contender


# The guard alone, in plain SQLAlchemy


def _fields(i: int, tenant: dict[str, Any]) -> dict[str, Any]:
    return {"id": uuid7(), **row(i), **tenant}


def _plain_get(session: Session, ids: list[Any], i: int, _tenant: dict[str, Any]) -> None:
    assert session.get(Guarded, (MINE.tenant_id, ids[i % len(ids)]))


def _plain_list(session: Session, _ids: list[Any], _i: int, _tenant: dict[str, Any]) -> None:
    wanted = select(Guarded).order_by(Guarded.tenant_id, Guarded.id).limit(20)
    assert len(session.scalars(wanted).all()) == 20


def _plain_core(session: Session, ids: list[Any], i: int, _tenant: dict[str, Any]) -> None:
    table = Guarded.__table__
    assert session.execute(
        select(table.c.title, table.c.status).where(table.c.id == ids[i % len(ids)])
    ).first()


def _plain_create(session: Session, _ids: list[Any], i: int, tenant: dict[str, Any]) -> None:
    session.add(Guarded(**_fields(i, tenant)))
    session.flush()


def _flush_100(session: Session, _ids: list[Any], _i: int, tenant: dict[str, Any]) -> None:
    session.add_all([Guarded(**_fields(number, tenant)) for number in range(100)])
    session.flush()


def _bulk_1000(session: Session, _ids: list[Any], _i: int, tenant: dict[str, Any]) -> None:
    session.execute(insert(Guarded), [_fields(number, tenant) for number in range(1000)])


_GUARD_WORKS = {
    "get": (_plain_get, 40),
    "list 20": (_plain_list, 20),
    "Core select": (_plain_core, 40),
    "create": (_plain_create, 20),
    "flush of 100": (_flush_100, 2),
    "bulk insert of 1,000": (_bulk_1000, 1),
}


def _guard_alone(engine: AsyncEngine, ids: list[Any]) -> list[Case]:
    sessions = create_session_factory(engine)

    def contender(work: Any, *, is_guarded: bool) -> Contender:
        tenant = {} if is_guarded else {"tenant_id": MINE.tenant_id}

        async def run_it(n: int) -> None:
            with use_context(MINE), nullcontext() if is_guarded else switched_off():
                for i in range(n):
                    async with sessions() as session:
                        await session.run_sync(work, ids, i, tenant)

        return run_it

    return _guard_cases("PostgreSQL", contender)


def _guard_alone_on_sqlite(engine: Engine) -> list[Case]:
    sessions = create_session_factory(engine)
    rows = [{**_fields(number, {}), "tenant_id": TENANTS[number % len(TENANTS)]} for number in range(ROWS)]
    ids = [item["id"] for item in rows if item["tenant_id"] == MINE.tenant_id]
    with engine.begin() as connection:
        Guarded.__table__.create(connection)
        connection.execute(insert(Guarded.__table__), rows)
        connection.execute(text("ANALYZE"))

    def contender(work: Any, *, is_guarded: bool) -> Contender:
        tenant = {} if is_guarded else {"tenant_id": MINE.tenant_id}

        async def run_it(n: int) -> None:
            with use_context(MINE), nullcontext() if is_guarded else switched_off():
                for i in range(n):
                    with sessions() as session:
                        work(session, ids, i, tenant)

        return run_it

    return _guard_cases("SQLite", contender)


def _guard_cases(server: str, contender: Callable[..., Contender]) -> list[Case]:
    return [
        Case(
            f"{name}, guard alone, {server}",
            {
                "guard switched off": contender(work, is_guarded=False),
                "dotmac": contender(work, is_guarded=True),
            },
            times=times,
            bar=1.05,
        )
        for name, (work, times) in _GUARD_WORKS.items()
    ]


if __name__ == "__main__":
    main()
