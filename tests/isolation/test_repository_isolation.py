"""A tenant's repository, attacked through relationships, data and lookups."""

from __future__ import annotations

import uuid  # noqa: TC003 - the mapper evaluates annotations

import pytest
from sqlalchemy import ForeignKey, String, literal_column, select
from sqlalchemy.orm import Mapped, mapped_column, relationship

from dotmac.database import (
    Base,
    BaseModel,
    EncryptedString,
    RequestContext,
    TenantAwareMixin,
    TenantModel,
    clear_rls_context,
    create_async_engine,
    create_async_repository,
    create_session_factory,
    set_rls_context,
    tenant_foreign_key,
    tenant_unique,
    unscoped,
    use_context,
)
from dotmac.database.errors import (
    DuplicateEntityError,
    MissingTenantError,
    TenantError,
    TenantMismatchError,
    ValidationError,
)


class Isolated(Base):
    metadata = Base.metadata.__class__(naming_convention=Base.metadata.naming_convention)

    @classmethod
    def get_table_prefix(cls):
        return "isolated_"


class Shop(Isolated, BaseModel):
    __tablename__ = "shops"

    name: Mapped[str] = mapped_column(String(50))
    owners: Mapped[list[Owner]] = relationship(lambda: Owner, back_populates="shop", viewonly=True)


class Owner(Isolated, TenantModel):
    __tablename__ = "owners"
    __table_args__ = (tenant_unique("name"),)

    name: Mapped[str | None] = mapped_column(String(50))
    secret: Mapped[str | None] = mapped_column(EncryptedString(keys=["a passphrase"]))
    shop_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("isolated_shops.id"))
    shop: Mapped[Shop | None] = relationship(lambda: Shop, viewonly=True)
    pets: Mapped[list[Pet]] = relationship(lambda: Pet, back_populates="owner")


class Pet(Isolated, TenantModel):
    __tablename__ = "pets"
    __table_args__ = (tenant_foreign_key("owner_id", "isolated_owners"),)

    name: Mapped[str] = mapped_column(String(50))
    owner_id: Mapped[uuid.UUID]
    owner: Mapped[Owner] = relationship(lambda: Owner, back_populates="pets")


class Log(Isolated, BaseModel, TenantAwareMixin):
    __tablename__ = "logs"

    line: Mapped[str] = mapped_column(String(50))


@pytest.fixture(params=["postgresql", "sqlite"])
async def sessions(request, tmp_path):
    if request.param == "sqlite":
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/isolation.db")
    else:
        engine = create_async_engine(request.getfixturevalue("dotmac_database").url())
    async with engine.begin() as connection:
        await connection.run_sync(Isolated.metadata.drop_all)
        await connection.run_sync(Isolated.metadata.create_all)
    yield create_session_factory(engine)
    async with engine.begin() as connection:
        await connection.run_sync(Isolated.metadata.drop_all)
    await engine.dispose()


@pytest.fixture
async def session(sessions):
    async with sessions() as session:
        yield session


async def test_a_related_entity_of_another_tenant_cannot_carry_a_row_over(sessions, session):
    async with sessions.begin() as other:
        stranger = await create_async_repository(other, Owner, "globex").create({"name": "Hank"})
    pets = create_async_repository(session, Pet, "acme")
    with pytest.raises(TenantMismatchError):
        await pets.create({"name": "Rex", "owner": stranger})
    with pytest.raises(TenantMismatchError):
        await create_async_repository(session, Owner, "acme").create(
            {"name": "Ann", "pets": [Pet(name="Rex", tenant_id="globex")]}
        )


async def test_new_related_entities_get_the_tenant_of_the_row(session):
    owner = await create_async_repository(session, Owner, "acme").create(
        {"name": "Ann", "pets": [Pet(name="Rex")]}
    )
    assert owner.pets[0].tenant_id == "acme"
    assert await create_async_repository(session, Pet, "acme").count() == 1


async def shop_of_two_tenants(sessions):
    async with sessions.begin() as session:
        shop = await create_async_repository(session, Shop).create({"name": "Corner"})
    for tenant in ("acme", "globex"):
        async with sessions.begin() as session:
            await create_async_repository(session, Owner, tenant).create({"name": tenant, "shop_id": shop.id})
    return shop


async def test_one_session_does_not_serve_two_tenants(session):
    create_async_repository(session, Owner, "acme")
    with pytest.raises(TenantMismatchError):
        create_async_repository(session, Owner, "globex")


async def test_a_shared_model_does_not_lead_to_tenants_rows_without_a_tenant(sessions, session):
    shop = await shop_of_two_tenants(sessions)
    shops = create_async_repository(session, Shop)
    with pytest.raises(MissingTenantError):
        await shops.list({"filters": [{"field": "owners.name", "value": "globex"}]})
    with pytest.raises(MissingTenantError):
        await shops.list({"load": ["owners"]})
    with pytest.raises(MissingTenantError):
        await shops.get_by_id(shop.id, load=["owners"])


async def test_a_shared_model_leads_to_the_own_rows_of_the_sessions_tenant(sessions):
    await shop_of_two_tenants(sessions)
    with use_context(RequestContext(tenant_id="acme")):
        async with sessions() as session:
            shops = create_async_repository(session, Shop)
            assert await shops.list({"filters": [{"field": "owners.name", "value": "globex"}]}) == []
            assert len(await shops.list({"filters": [{"field": "owners.name", "value": "acme"}]})) == 1
            [found] = await shops.list({"load": ["owners"]})
            assert [owner.name for owner in found.owners] == ["acme"]
    with unscoped("a report over all shops"):
        async with sessions() as session:
            [found] = await create_async_repository(session, Shop).list({"load": ["owners"]})
            assert {owner.name for owner in found.owners} == {"acme", "globex"}


async def test_a_tenant_given_as_sql_is_refused(session):
    owners = create_async_repository(session, Owner, "acme")
    with pytest.raises(TenantMismatchError):
        await owners.create({"name": "x", "tenant_id": literal_column("'globex'")})
    mine = await owners.create({"name": "mine"})
    with pytest.raises(TenantMismatchError):
        await owners.update(mine.id, {"tenant_id": literal_column("'globex'")})
    with pytest.raises(TenantMismatchError):
        await owners.bulk_update([{"id": mine.id, "tenant_id": "globex"}])


async def test_null_makes_no_row_unique(session):
    owners = create_async_repository(session, Owner, "acme")
    with pytest.raises(ValidationError, match="several rows"):
        await owners.get_or_create({"name": None})


async def test_encrypted_columns_neither_filter_nor_sort(session):
    owners = create_async_repository(session, Owner, "acme")
    ann = await owners.create({"name": "Ann", "secret": "hush"})
    with pytest.raises(ValidationError, match="encrypted"):
        await owners.list({"filters": [{"field": "secret", "value": "hush"}]})
    with pytest.raises(ValidationError):
        await owners.list({"sorts": [{"field": "secret"}]})
    assert await owners.count([{"field": "secret", "operator": "is_not_null"}]) == 1
    session.expunge_all()
    assert (await owners.get_by_id(ann.id)).secret == "hush"
    stored = await session.scalar(select(Owner.__table__.c.secret.cast(String)))
    assert "hush" not in stored


async def test_across_tenants_a_key_names_its_tenant(sessions):
    async with sessions.begin() as session:
        mine = await create_async_repository(session, Owner, "acme").create({"name": "Ann"})
    async with sessions.begin() as session:
        await create_async_repository(session, Owner, "globex").create({"id": mine.id, "name": "Hank"})
    with unscoped("a support case"):
        async with sessions.begin() as session:
            owners = create_async_repository(session, Owner)
            with pytest.raises(ValidationError, match="tenant_id, id"):
                await owners.get_by_id(mine.id)
            with pytest.raises(ValidationError):
                await owners.bulk_delete([mine.id], soft_delete=False)
            assert (await owners.get_by_id(("globex", mine.id))).name == "Hank"
            await owners.update(("globex", mine.id), {"name": "Henry"})
            assert await owners.bulk_update([{"tenant_id": "acme", "id": mine.id, "name": "Anna"}]) == 1
            assert await owners.bulk_delete([("acme", mine.id)]) == 1
            assert [owner.name for owner in await owners.list()] == ["Henry"]


async def test_an_upsert_across_tenants_moves_no_row(sessions):
    async with sessions.begin() as session:
        log = await create_async_repository(session, Log, "acme").create({"line": "mine"})
    with unscoped("an import"):
        async with sessions.begin() as session:
            logs = create_async_repository(session, Log)
            with pytest.raises(DuplicateEntityError):
                await logs.upsert({"id": log.id, "tenant_id": "globex", "line": "stolen"})
            assert (
                await logs.upsert({"id": log.id, "tenant_id": "acme", "line": "changed"})
            ).line == "changed"
            assert [(entry.tenant_id, entry.line) for entry in await logs.list()] == [("acme", "changed")]


async def test_a_repository_does_not_follow_its_session_to_another_tenant(session):
    owners = create_async_repository(session, Owner, "acme")
    made = await owners.create({"name": "Ann"})
    await clear_rls_context(session)
    with pytest.raises(MissingTenantError):
        await owners.list()
    await set_rls_context(session, "globex")
    theirs = await create_async_repository(session, Owner, "globex").create({"name": "Hank"})
    for act in (
        owners.list,
        lambda: owners.get_by_id(theirs.id),
        lambda: owners.create({"name": "Eve"}),
        lambda: owners.update(theirs.id, {"name": "Eve"}),
        lambda: owners.delete(theirs.id),
        lambda: owners.upsert_many([{"name": "Hank"}], ["name"]),
        lambda: anext(owners.stream()),
    ):
        with pytest.raises(TenantError, match="'acme'"):
            await act()
    await clear_rls_context(session)
    await set_rls_context(session, "acme")
    assert [owner.id for owner in await owners.list()] == [made.id]
