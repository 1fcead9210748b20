"""Work across tenants, and work that cannot be bound: refused where the answer would be wrong in silence."""

from __future__ import annotations

import pytest
from sqlalchemy import String, func, select, text
from sqlalchemy.orm import Mapped, mapped_column

from dotmac.database import (
    Base,
    RequestContext,
    TenantModel,
    create_async_engine,
    create_session_factory,
    set_schema_search_path,
    unscoped,
    use_context,
)
from dotmac.database.errors import TenantError
from dotmac.database.tenancy import enable_row_level_security


class Across(Base):
    metadata = Base.metadata.__class__(naming_convention=Base.metadata.naming_convention)


class Parcel(Across, TenantModel):
    __tablename__ = "across_parcels"

    label: Mapped[str] = mapped_column(String(50))


@pytest.fixture
async def databases(dotmac_database):
    """Sessions as the owner, whom policies bind, and as the administrator, whom they do not."""
    owner = create_async_engine(dotmac_database.url())
    admin = create_async_engine(dotmac_database.url(role="admin"))
    async with owner.begin() as connection:
        await connection.run_sync(Across.metadata.drop_all)
        await connection.run_sync(Across.metadata.create_all)
        await connection.run_sync(enable_row_level_security, Across.metadata)
    for tenant in ("acme", "globex"):
        with use_context(RequestContext(tenant_id=tenant)):
            async with create_session_factory(owner).begin() as session:
                session.add(Parcel(label=tenant))
    yield create_session_factory(owner), create_session_factory(admin)
    async with owner.begin() as connection:
        await connection.run_sync(Across.metadata.drop_all)
    await owner.dispose()
    await admin.dispose()


COUNTS = {
    "orm": select(func.count()).select_from(Parcel),
    "core": select(func.count()).select_from(Parcel.__table__),
    "text": text("SELECT count(*) FROM across_parcels"),
    "subquery": select(func.count()).select_from(select(Parcel.id).subquery()),
}


@pytest.mark.parametrize("statement", COUNTS.values(), ids=COUNTS)
async def test_a_role_that_policies_bind_gets_no_empty_answer_across_tenants(databases, statement):
    bound, free = databases
    with unscoped("a report"):
        async with bound() as session:
            with pytest.raises(TenantError, match="BYPASSRLS"):
                await session.execute(statement)
        async with free() as session:
            assert (await session.execute(statement)).scalar_one() == 2


async def test_work_across_tenants_may_do_what_concerns_no_tenant(databases):
    bound, _ = databases
    with unscoped("a look at the clock"):
        async with bound() as session:
            assert (await session.execute(select(func.now()))).scalar_one()


async def test_a_schema_needs_a_transaction(dotmac_database):
    engine = create_async_engine(dotmac_database.url(), isolation_level="AUTOCOMMIT")
    async with create_session_factory(engine)() as session:
        await set_schema_search_path(session, tenant_id="acme")
        with pytest.raises(TenantError, match="AUTOCOMMIT"):
            await session.execute(select(func.now()))
    await engine.dispose()
