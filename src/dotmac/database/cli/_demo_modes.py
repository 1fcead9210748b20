"""Three tenants in the three isolation modes, served by the same repository code, each attacking its neighbour."""

from __future__ import annotations

import asyncio
import secrets
import uuid  # noqa: TC003 - the mapper evaluates annotations
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import MetaData, String, make_url, text
from sqlalchemy.orm import Mapped, mapped_column

from dotmac.database.cli._demo_attacks import attack
from dotmac.database.cli._demo_report import CheckFailedError, ModesTable, require
from dotmac.database.context import RequestContext, use_context
from dotmac.database.engine import AsyncDatabase
from dotmac.database.models import Base, TenantAwareMixin, uuid7
from dotmac.database.query import PaginationParams, QueryFilter, QueryOptions
from dotmac.database.repository import create_async_repository
from dotmac.database.tenancy import DirectoryOptions, TenantDirectory, enable_row_level_security, schema_name
from dotmac.database.tenancy.doctor import Severity, examine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncSession

    from dotmac.database.embedded import EmbeddedPostgres

MODES = ("shared", "schema", "database")
_DATABASE, _ROLE = "demo_modes", "demo_modes_app"
_LIVES = {"shared": "tables of all", "schema": "its own schema", "database": "its own database"}
_ROWS = 25
_PER_PAGE = 10


class ModesBase(Base):
    """Models apart from the application's: their metadata is what each tenant gets."""

    metadata = MetaData()


class Note(ModesBase, TenantAwareMixin):
    """A row of a tenant, wherever that tenant's rows live."""

    __tablename__ = "demo_notes"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid7)
    title: Mapped[str] = mapped_column(String(80))
    status: Mapped[str] = mapped_column(String(20), default="open")


def compare_modes(postgres: EmbeddedPostgres, table: ModesTable) -> str:
    """Fill ``table``: the same code for a tenant of each mode, attacks from its session, the doctor's verdict.

    Raises:
        CheckFailedError: Something did not hold; the table says what, in each mode.
    """
    asyncio.run(_compare(postgres, table))
    if table.failures:
        raise CheckFailedError(table.failures[0])
    return f"{len(MODES)} modes, one code; {table.attacks} attacks held"


# The application: nothing in it knows of modes.


async def create_notes(session: AsyncSession) -> str:
    """Rows, one by one and many at once."""
    notes = create_async_repository(session, Note)
    await notes.create({"title": "note 00"})
    await notes.bulk_create([{"title": f"note {number:02}"} for number in range(1, _ROWS)])
    return f"{_ROWS} rows"


async def list_notes(session: AsyncSession) -> str:
    """All of the tenant's rows, and only these."""
    notes = create_async_repository(session, Note)
    titles = sorted(note.title for note in await notes.list())
    require([f"note {number:02}" for number in range(_ROWS)], titles, "titles")
    return f"{len(titles)} rows"


async def update_notes(session: AsyncSession) -> str:
    """One row is changed, and found by its new value."""
    notes = create_async_repository(session, Note)
    first = (await notes.list(_having("title", "note 00")))[0]
    await notes.update(first.id, {"status": "done"})
    require([first.id], [note.id for note in await notes.list(_having("status", "done"))], "done notes")
    return "1 row"


def _having(field: str, value: str) -> QueryOptions:
    return QueryOptions(filters=(QueryFilter(field=field, value=value),))


async def page_notes(session: AsyncSession) -> str:
    """Pages hold every row once."""
    notes = create_async_repository(session, Note)
    seen: list[object] = []
    pages: int | None = 0
    for number in range(1, 10):
        page = await notes.list_paginated(
            QueryOptions(pagination=PaginationParams(page=number, per_page=_PER_PAGE))
        )
        require(_ROWS, page.total, "total")
        seen += [note.id for note in page.items]
        pages = page.pages
        if not page.has_next:
            break
    require(_ROWS, len(set(seen)), "different rows over all pages")
    return f"{pages} pages"


STEPS = {"Create": create_notes, "List": list_notes, "Update": update_notes, "Page": page_notes}


# Around it: tenants, attacks and the doctor.


@dataclass(frozen=True, slots=True)
class _Servers:
    """The database all tenants start from, and those that one has to itself; as administrator, and as application."""

    administrators: dict[str, AsyncDatabase]
    application: AsyncDatabase


async def _compare(postgres: EmbeddedPostgres, table: ModesTable) -> None:
    async with AsyncExitStack() as opened:
        servers = await _provision(postgres, opened)
        for mode in MODES:
            table.put("Rows live in", mode, _LIVES[mode])
            await table.fill(
                "Give the neighbour rows", mode, _as_tenant(servers, _neighbour(mode), create_notes)
            )
            for name, step in STEPS.items():
                await table.fill(name, mode, _as_tenant(servers, _tenant(mode), step))
        for mode in MODES:
            await _attack(servers, table, mode)
            await table.fill(
                "The doctor finds", mode, _ask_doctor(servers.administrators[_database_of(_tenant(mode))])
            )


def _tenant(mode: str) -> str:
    return f"demo-{mode}"  # its id, and its slug


def _neighbour(mode: str) -> str:
    return f"demo-{mode}-next"


def _database_of(tenant_id: str) -> str:
    return tenant_id.replace("-", "_") if tenant_id.startswith(_tenant("database")) else _DATABASE


def _schema_of(tenant_id: str) -> str:
    return schema_name(tenant_id) if tenant_id.startswith(_tenant("schema")) else "public"


async def _provision(postgres: EmbeddedPostgres, opened: AsyncExitStack) -> _Servers:
    password = secrets.token_hex(16)
    postgres.address.execute(f"CREATE ROLE {_ROLE} LOGIN PASSWORD '{password}'")
    postgres.create_database(_DATABASE, owner="postgres")
    names = {_database_of(of(mode)) for mode in MODES for of in (_tenant, _neighbour)}
    administrators, applications = {}, {}
    for name in sorted(names):
        administrators[name] = await opened.enter_async_context(
            AsyncDatabase(postgres.url(name, role="admin"))
        )
        url = make_url(postgres.url(name)).set(username=_ROLE, password=password)
        applications[name] = await opened.enter_async_context(
            AsyncDatabase(url.render_as_string(hide_password=False))
        )
    async with administrators[_DATABASE].engine.begin() as connection:
        await connection.run_sync(ModesBase.metadata.create_all)
        await connection.run_sync(enable_row_level_security, ModesBase.metadata)
        await connection.execute(
            text(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {Note.__tablename__} TO {_ROLE}")
        )
    options = DirectoryOptions(
        metadata=ModesBase.metadata, application_role=_ROLE, row_level_security=True, shared_schema=None
    )
    directory = TenantDirectory(administrators[_DATABASE], options)
    await directory.install()
    for mode in MODES:
        for tenant_id in (_tenant(mode), _neighbour(mode)):
            own = _database_of(tenant_id) if mode == "database" else None
            await directory.create(tenant_id, mode=mode, tenant_id=tenant_id, connection=own)
    tenants = TenantDirectory(applications[_DATABASE], options)
    application = await opened.enter_async_context(
        AsyncDatabase(applications[_DATABASE].settings, tenants=tenants, databases=applications)
    )
    return _Servers(administrators, application)


async def _as_tenant(
    servers: _Servers, tenant_id: str, step: Callable[[AsyncSession], Awaitable[str]]
) -> str:
    with use_context(RequestContext(tenant_id=tenant_id)):
        async with servers.application.create_session() as session:
            return await step(session)


async def _attack(servers: _Servers, table: ModesTable, mode: str) -> None:
    victim, held = _neighbour(mode), 0
    before = await _rows_of(servers, victim)
    outcomes = await attack(
        servers.application, Note, attacker=_tenant(mode), victim=victim, victim_row=before[0][0]
    )
    for outcome in outcomes:
        table.put(outcome.attack, mode, outcome.seen, holds=outcome.holds)
        held += outcome.holds
    untouched = before == await _rows_of(servers, victim)
    seen = f"{len(before)} rows, as before" if untouched else "they changed"
    table.put("Neighbour's rows after all", mode, seen, holds=untouched)
    table.attacks += held
    table.put("Attacks held", mode, f"{held} of {len(outcomes)}", holds=held == len(outcomes))


async def _rows_of(servers: _Servers, tenant_id: str) -> list[tuple[object, ...]]:
    """What is stored, read as the administrator, whom nothing binds; the key first."""
    where = f"{_schema_of(tenant_id)}.{Note.__tablename__}"
    async with servers.administrators[_database_of(tenant_id)].engine.connect() as connection:
        rows = await connection.execute(
            text(f"SELECT id, * FROM {where} WHERE tenant_id = :tenant ORDER BY id"),  # noqa: S608 - our names
            {"tenant": tenant_id},
        )
        return [tuple(row) for row in rows]


async def _ask_doctor(administrator: AsyncDatabase) -> str:
    async with administrator.engine.connect() as connection:
        findings = await connection.run_sync(lambda sync: examine(sync, ModesBase.metadata, roles=[_ROLE]))
    errors = [
        f"{finding.code} on {finding.object}" for finding in findings if finding.severity is Severity.ERROR
    ]
    require([], errors, "the doctor's errors")
    warned = sorted({finding.code for finding in findings if finding.severity is Severity.WARNING})
    return "nothing" if not warned else f"no error; warns: {', '.join(warned)}"
