"""What a tenant's session may try on its neighbour's rows: each attempt finds nothing, or is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table, delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from dotmac.database.context import RequestContext, use_context
from dotmac.database.errors import TenantError
from dotmac.database.models import uuid7
from dotmac.database.repository import create_async_repository
from dotmac.database.tenancy import set_rls_context

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncSession

    from dotmac.database.engine import AsyncDatabase

_INSUFFICIENT_PRIVILEGE = "42501"  # also for a row that a policy refuses
_SCHEMA = "tenant_demo__schema__next"


@dataclass(frozen=True, slots=True)
class Target:
    """Whose row is attacked, and through which model."""

    model: Any
    tenant_id: str
    row_id: object

    @property
    def table(self) -> Table:
        """The model's table."""
        table: Table = self.model.__table__
        return table


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attack."""

    attack: str
    seen: str
    holds: bool


async def _plain_select(session: AsyncSession, target: Target) -> Any:
    rows = (await session.scalars(select(target.model))).all()
    return [row for row in rows if row.tenant_id == target.tenant_id]


async def _by_id(session: AsyncSession, target: Target) -> Any:
    return await session.get(target.model, target.row_id)


async def _core_select(session: AsyncSession, target: Target) -> Any:
    table = target.table
    statement = select(table.c.id).where(
        (table.c.tenant_id == target.tenant_id) | (table.c.id == target.row_id)
    )
    return (await session.execute(statement)).all()


async def _core_update(session: AsyncSession, target: Target) -> Any:
    table = target.table
    statement = (
        update(table).where(table.c.id == target.row_id).values(title="taken over").returning(table.c.id)
    )
    return (await session.execute(statement)).all()


async def _core_delete(session: AsyncSession, target: Target) -> Any:
    table = target.table
    statement = delete(table).where(table.c.id == target.row_id).returning(table.c.id)
    return (await session.execute(statement)).all()


async def _foreign_insert(session: AsyncSession, target: Target) -> Any:
    row = {"id": uuid7(), "tenant_id": target.tenant_id, "title": "planted"}
    await session.execute(insert(target.table), row)
    return "the row was taken"


async def _text_select(session: AsyncSession, target: Target) -> Any:
    sql = f"SELECT id FROM {target.table.name} WHERE id = :id OR tenant_id = :tenant"  # noqa: S608 - our names
    return (await session.execute(text(sql), {"id": target.row_id, "tenant": target.tenant_id})).all()


async def _text_delete(session: AsyncSession, target: Target) -> Any:
    sql = f"DELETE FROM {target.table.name} WHERE id = :id RETURNING id"  # noqa: S608 - our names
    return (await session.execute(text(sql), {"id": target.row_id})).all()


async def _schema_by_name(session: AsyncSession, target: Target) -> Any:
    sql = f"SELECT id FROM {_SCHEMA}.{target.table.name}"  # noqa: S608 - our names
    return (await session.execute(text(sql))).all()


async def _other_setting(session: AsyncSession, target: Target) -> Any:
    setting = text("SELECT set_config('app.tenant_id', :tenant, true)")
    await session.execute(setting, {"tenant": target.tenant_id})
    return "the setting was taken"


async def _search_path(session: AsyncSession, _target: Target) -> Any:
    await session.execute(text(f"SET search_path = {_SCHEMA}, public"))
    return "the setting was taken"


async def _two_statements(session: AsyncSession, target: Target) -> Any:
    await session.execute(text(f"SELECT 1; DELETE FROM {target.table.name}"))  # noqa: S608 - our names
    return "both were sent"


async def _other_tenant(session: AsyncSession, target: Target) -> Any:
    await set_rls_context(session, target.tenant_id)
    return "the session changed its tenant"


async def _other_repository(session: AsyncSession, target: Target) -> Any:
    return await create_async_repository(session, target.model, target.tenant_id).get_by_id(target.row_id)


ATTACKS: dict[str, Callable[[AsyncSession, Target], Awaitable[Any]]] = {
    "SELECT without a filter": _plain_select,
    "Get by the neighbour's id": _by_id,
    "Core SELECT of both ids": _core_select,
    "Core UPDATE": _core_update,
    "Core DELETE": _core_delete,
    "INSERT for the neighbour": _foreign_insert,
    "Text SELECT": _text_select,
    "Text DELETE": _text_delete,
    "Another's schema by name": _schema_by_name,
    "set_config of the tenant": _other_setting,
    "SET search_path": _search_path,
    "Two statements in one text": _two_statements,
    "Bind the session anew": _other_tenant,
    "The neighbour's repository": _other_repository,
}


async def attack(
    database: AsyncDatabase, model: Any, *, attacker: str, victim: str, victim_row: object
) -> list[Outcome]:
    """Every attack, each in a session of its own that is bound to ``attacker`` and committed."""
    target = Target(model, victim, victim_row)
    with use_context(RequestContext(tenant_id=attacker)):
        return [await _try(database, name, attempt, target) for name, attempt in ATTACKS.items()]


async def _try(
    database: AsyncDatabase,
    name: str,
    attempt: Callable[[AsyncSession, Target], Awaitable[Any]],
    target: Target,
) -> Outcome:
    try:
        async with database.create_session() as session:
            found = await attempt(session, target)
    except TenantError:
        return Outcome(name, "refused", holds=True)
    except DBAPIError as error:
        holds = getattr(error.orig, "sqlstate", None) == _INSUFFICIENT_PRIVILEGE
        return Outcome(
            name, "refused by the server" if holds else f"{type(error.orig).__name__}", holds=holds
        )
    if found:
        return Outcome(name, found if isinstance(found, str) else "reached the row", holds=False)
    return Outcome(name, "finds nothing", holds=True)
