"""The declarative base: what is abstract, how tables and constraints are named, which key a table gets."""

from __future__ import annotations

import datetime as dt
import uuid  # noqa: TC003 - SQLAlchemy reads the annotation

import pytest
from sqlalchemy import CheckConstraint, ForeignKey, MetaData, String, inspect, select
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.schema import CreateIndex, CreateTable

from dotmac.database.models import (
    NAMING_CONVENTION,
    AuditMixin,
    Base,
    BaseModel,
    SoftDeleteMixin,
    TenantAwareMixin,
    TenantModel,
    UTCDateTime,
    describe,
    live_unique,
    tenant_foreign_key,
    tenant_unique,
    uuid7,
)

METADATA = MetaData(naming_convention=NAMING_CONVENTION)
DIALECTS = {"postgresql": postgresql.dialect(), "sqlite": sqlite.dialect(), "mysql": mysql.dialect()}


class Root(Base):
    metadata = METADATA

    @classmethod
    def get_table_prefix(cls) -> str:
        return "m_"


class Animal(Root):
    __tablename__ = "animals"

    kind: Mapped[str] = mapped_column(String(20))
    legs: Mapped[int] = mapped_column(CheckConstraint("legs >= 0", name="legs"), index=True)
    tag: Mapped[str] = mapped_column(String(20), unique=True)
    born: Mapped[dt.datetime | None]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}  # noqa: RUF012


class Dog(Animal):
    bark: Mapped[str | None] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012


class Cat(Animal):
    __tablename__ = "cats"

    id: Mapped[uuid.UUID] = mapped_column(ForeignKey("m_animals.id"), primary_key=True)
    __mapper_args__ = {"polymorphic_identity": "cat"}  # noqa: RUF012


class Member(TenantAwareMixin, SoftDeleteMixin, AuditMixin, BaseModel):
    __tablename__ = "m_members"
    metadata = METADATA
    __table_args__ = (
        tenant_unique("handle"),
        live_unique("email", name="uq_members_email_live"),
    )

    handle: Mapped[str] = mapped_column(String(20))
    email: Mapped[str] = mapped_column(String(20))


class Team(TenantModel):
    __tablename__ = "m_teams"
    metadata = METADATA


class Badge(TenantModel):
    __tablename__ = "m_badges"
    metadata = METADATA
    __table_args__ = (tenant_foreign_key("team_id", "m_teams", ondelete="CASCADE"),)

    team_id: Mapped[uuid.UUID]


def ddl(model, dialect):
    return str(CreateTable(model.__table__).compile(dialect=DIALECTS[dialect]))


@pytest.mark.parametrize("model", [Root, Base, BaseModel, TenantModel])
def test_a_class_without_a_table_name_is_abstract(model):
    assert inspect(model, raiseerr=False) is None


def test_the_prefix_goes_in_front_of_the_name():
    assert Animal.__table__.name == "m_animals"


def test_a_table_without_a_key_gets_a_time_ordered_one():
    [key] = Animal.__table__.primary_key
    assert (key.name, key.default.arg(None).version) == ("id", 7)


def test_ids_sort_by_creation():
    ids = [uuid7() for _ in range(1000)]
    assert ids == sorted(ids)
    assert {one.version for one in ids} == {7}


def test_a_subclass_without_a_table_name_shares_its_parents_table():
    assert Dog.__table__ is Animal.__table__
    assert "m_animals.kind IN" in str(select(Dog))


def test_a_subclass_with_a_table_name_joins_its_parents():
    assert Cat.__table__.name == "m_cats"
    assert "FROM m_animals JOIN m_cats ON m_animals.id = m_cats.id" in str(select(Cat)).replace("\n", "")


def test_constraints_have_predictable_names():
    names = {constraint.name for constraint in Animal.__table__.constraints}
    assert names == {"pk_m_animals", "uq_m_animals_tag"}
    assert "CONSTRAINT ck_m_animals_legs CHECK (legs >= 0)" in ddl(Animal, "postgresql")
    assert {index.name for index in Animal.__table__.indexes} == {"ix_m_animals_legs"}
    assert {key.constraint.name for key in Cat.__table__.foreign_keys} == {"fk_m_cats_id_m_animals"}


def test_a_datetime_is_a_point_in_time():
    assert isinstance(Animal.__table__.c.born.type, UTCDateTime)


@pytest.mark.parametrize(
    ("dialect", "column"),
    [
        ("postgresql", "created_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP NOT NULL"),
        ("sqlite", "created_at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL"),
        ("mysql", "created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)"),
    ],
)
def test_timestamps_are_set_by_the_server(dialect, column):
    assert column in ddl(Member, dialect)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_columns_come_in_a_readable_order(dialect):
    names = [column.name for column in Member.__table__.columns]
    assert names[0] == "id"
    assert names[-2:] == ["created_at", "updated_at"]
    assert "m_members" in ddl(Member, dialect)


def test_a_tenants_unique_carries_the_tenant():
    assert "CONSTRAINT uq_m_members_tenant_id_handle UNIQUE (tenant_id, handle)" in ddl(Member, "postgresql")


@pytest.mark.parametrize(("dialect", "where"), [("postgresql", True), ("sqlite", True), ("mysql", False)])
def test_a_live_unique_holds_among_rows_that_are_not_deleted(dialect, where):
    [index] = [found for found in Member.__table__.indexes if found.name == "uq_members_email_live"]
    text = str(CreateIndex(index).compile(dialect=DIALECTS[dialect]))
    assert text.startswith("CREATE UNIQUE INDEX uq_members_email_live ON m_members (email)")
    assert ("WHERE deleted_at IS NULL" in text) is where


def test_a_tenant_models_key_and_references_carry_the_tenant():
    assert [column.name for column in Badge.__table__.primary_key] == ["tenant_id", "id"]
    assert "FOREIGN KEY(tenant_id, team_id) REFERENCES m_teams (tenant_id, id) ON DELETE CASCADE" in ddl(
        Badge, "postgresql"
    )


def test_a_reference_that_would_null_the_tenant_is_refused():
    with pytest.raises(ValueError, match="would also null tenant_id"):
        tenant_foreign_key("team_id", "m_teams", ondelete="set null")


def test_soft_delete_marks_and_unmarks():
    member = Member(is_active=True)
    assert not member.is_deleted
    member.soft_delete()
    assert (member.is_deleted, member.is_active) == (True, False)
    assert member.deleted_at.tzinfo is dt.UTC
    member.restore()
    assert (member.is_deleted, member.is_active) == (False, True)


def test_is_deleted_works_in_sql():
    assert "WHERE m_members.deleted_at IS NOT NULL" in str(select(Member).where(Member.is_deleted))


def test_a_dictionary_holds_loaded_columns_only():
    member = Member(handle="ada")
    assert member.to_dict() == member.dict() == {"handle": "ada"}


def test_a_repr_shows_no_values():
    assert repr(Member(handle="ada", email="ada@example.com")) == "<Member transient>"


def test_a_shape_tells_key_tenant_and_soft_delete():
    shape = describe(Badge)
    assert [part.key for part in shape.key] == ["id"]
    assert [part.key for part in shape.identity] == ["tenant_id", "id"]
    assert (shape.tenant.key, shape.deleted_at, describe(Member).deleted_at.key) == (
        "tenant_id",
        None,
        "deleted_at",
    )


@pytest.mark.parametrize("not_a_model", [int, Root, "Member", Member.__table__])
def test_only_mapped_classes_have_a_shape(not_a_model):
    with pytest.raises(TypeError, match="not a mapped class"):
        describe(not_a_model)


def test_a_tenant_column_can_be_left_unscoped():
    class Lookup(BaseModel):
        __tablename__ = "m_lookups"
        metadata = METADATA
        __tenant_scoped__ = False

        tenant_id: Mapped[str] = mapped_column(String(20))

    assert describe(Lookup).tenant is None
