"""Mocks: what is theirs alone. That they behave as the real repositories do, the behaviour suite proves."""

from __future__ import annotations

import gc
import subprocess
import sys
import uuid
import weakref

import pytest
from sqlalchemy import ARRAY, BigInteger, ForeignKey, Identity, MetaData, String, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.orm import Mapped, mapped_column, relationship

from dotmac.database import (
    AsyncRepository,
    Base,
    BaseModel,
    BaseRepository,
    RequestContext,
    TenantModel,
    use_context,
)
from dotmac.database.errors import (
    ConfigurationError,
    ConstraintViolationError,
    DuplicateEntityError,
    MissingTenantError,
    ValidationError,
)
from dotmac.database.testing import AsyncMockRepository, MockRepository

METADATA = MetaData()
BOTH = pytest.mark.parametrize("mock", [MockRepository, AsyncMockRepository])


class MockedShelf(BaseModel):
    __tablename__ = "mock_shelves"
    metadata = METADATA

    name: Mapped[str] = mapped_column(String(50), unique=True)
    boxes: Mapped[list[MockedBox]] = relationship(lambda: MockedBox, back_populates="shelf")


class MockedBox(Base):
    __tablename__ = "mock_boxes"
    __table_args__ = {"schema": "store"}  # noqa: RUF012 - SQLAlchemy's form
    metadata = METADATA

    id: Mapped[int] = mapped_column(BigInteger(), Identity(), primary_key=True)
    shelf_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("mock_shelves.id"))
    label: Mapped[dict[str, str] | None] = mapped_column(JSONB())
    shelf: Mapped[MockedShelf | None] = relationship(lambda: MockedShelf, back_populates="boxes")


class Owned(TenantModel):
    __tablename__ = "mock_owned"
    metadata = METADATA

    name: Mapped[str] = mapped_column(String(50))


class WithArray(BaseModel):
    __tablename__ = "mock_arrays"
    metadata = MetaData()

    tags: Mapped[list[str]] = mapped_column(ARRAY(String()))


class WithForeignDefault(BaseModel):
    __tablename__ = "mock_defaults"
    metadata = MetaData()

    at: Mapped[str] = mapped_column(String(50), server_default=text("now()::text"))


class ShelfRepository(BaseRepository[MockedShelf]):
    model = MockedShelf
    sortable = ("name",)

    def named(self, name):
        return self.get_by_field("name", name)


class AsyncShelfRepository(AsyncRepository[MockedShelf]):
    model = MockedShelf

    async def named(self, name):
        return await self.get_by_field("name", name)


@BOTH
def test_small_integers_are_short_for_uuids_in_mock_data(mock):
    [shelf] = mock(MockedShelf).add_mock_data([{"id": 1, "name": "top"}])
    assert shelf.id == uuid.UUID(int=1)


@BOTH
def test_integer_keys_are_kept_in_mock_data(mock):
    [box] = mock(MockedBox).add_mock_data([{"id": 7}])
    assert box.id == 7


@BOTH
@pytest.mark.parametrize("row", [{"name": "a", "nope": 1}, {"name": "a", "id": "x"}, {"name": "a", "id": -1}])
def test_mock_data_that_does_not_fit_is_refused(mock, row):
    with pytest.raises(ValidationError, match="MockedShelf"):
        mock(MockedShelf).add_mock_data([row])


@BOTH
def test_mock_data_that_breaks_a_constraint_leaves_nothing_behind(mock):
    with mock(MockedShelf) as shelves:
        shelves.add_mock_data([{"name": "kept"}])
        with pytest.raises(DuplicateEntityError):
            shelves.add_mock_data([{"name": "new"}, {"name": "kept"}])
        assert len(shelves.add_mock_data([{"name": "new"}])) == 1


def test_rollback_goes_back_to_the_mock_data():
    shelves = MockRepository(MockedShelf)
    shelves.add_mock_data([{"name": "kept"}])
    shelves.create({"name": "lost"})
    with pytest.raises(DuplicateEntityError):
        shelves.create({"name": "kept"})
    shelves.db.rollback()
    assert [shelf.name for shelf in shelves.list()] == ["kept"]


async def test_the_session_of_an_async_mock_is_awaited():
    shelves = AsyncMockRepository(MockedShelf)
    await shelves.create({"name": "kept"})
    await shelves.db.commit()
    await shelves.create({"name": "lost"})
    await shelves.db.rollback()
    assert [shelf.name async for shelf in shelves.stream()] == ["kept"]


def test_mock_data_may_be_another_tenants():
    mine = MockRepository(Owned, tenant_id="t1")
    mine.add_mock_data([{"name": "mine"}, {"name": "theirs", "tenant_id": "t2"}])
    assert [row.name for row in mine.list()] == ["mine"]
    theirs = MockRepository(Owned, "t2", beside=mine)
    assert [row.name for row in theirs.list()] == ["theirs"]


@BOTH
def test_tenant_comes_from_the_context_or_is_missing(mock):
    with pytest.raises(MissingTenantError):
        mock(Owned)
    with use_context(RequestContext(tenant_id="t1")):
        assert mock(Owned).add_mock_data([{"name": "x"}])[0].tenant_id == "t1"


def test_mocks_beside_each_other_share_their_rows():
    shelves = MockRepository(MockedShelf)
    boxes = MockRepository(MockedBox, beside=shelves)
    shelf = shelves.create({"name": "top"})
    boxes.create({"shelf": shelf, "label": {"what": "books"}})
    assert boxes.count([{"field": "shelf.name", "value": "top"}]) == 1
    assert boxes.count([{"field": "label.what", "value": "books"}]) == 1


def test_mocks_of_their_own_share_nothing():
    shelf = MockRepository(MockedShelf).create({"name": "top"})
    assert MockRepository(MockedShelf).count() == 0
    with pytest.raises(ConstraintViolationError) as caught:
        MockRepository(MockedBox).create({"shelf_id": shelf.id})
    assert caught.value.kind == "foreign_key"


def test_a_lazy_load_works_in_a_blocking_mock():
    shelves = MockRepository(MockedShelf)
    boxes = MockRepository(MockedBox, beside=shelves)
    [shelf] = shelves.add_mock_data([{"name": "top"}])
    box = boxes.create({"shelf_id": shelf.id})
    shelves.db.expunge_all()
    assert boxes.get_by_id(box.id).shelf.name == "top"


async def test_a_lazy_load_fails_in_an_async_mock_as_in_production():
    shelves = AsyncMockRepository(MockedShelf)
    boxes = AsyncMockRepository(MockedBox, beside=shelves)
    [shelf] = shelves.add_mock_data([{"name": "top"}])
    key = (await boxes.create({"shelf_id": shelf.id})).id
    shelves.db.expunge_all()
    box = await boxes.get_by_id(key)
    with pytest.raises(MissingGreenlet, match="Load it with the row"):
        _ = box.shelf
    shelves.db.expunge_all()
    assert (await boxes.get_by_id(key, load=["shelf"])).shelf.name == "top"


async def test_own_repositories_are_mocked_with_their_methods():
    class MockShelves(MockRepository[MockedShelf], ShelfRepository): ...

    class AsyncMockShelves(AsyncMockRepository[MockedShelf], AsyncShelfRepository): ...

    shelves = MockShelves()
    shelves.add_mock_data([{"name": "top"}])
    assert shelves.named("top").name == "top"
    with pytest.raises(ValidationError, match="Allowed: name"):
        shelves.list({"sorts": [{"field": "created_at"}]})
    awaited = AsyncMockShelves()
    awaited.add_mock_data([{"name": "top"}])
    assert (await awaited.named("top")).name == "top"


@BOTH
@pytest.mark.parametrize(("model", "why"), [(WithArray, "ARRAY"), (WithForeignDefault, "token")])
def test_a_model_that_sqlite_cannot_hold_is_refused_by_name(mock, model, why):
    with pytest.raises(ConfigurationError, match=f"{model.__tablename__}.*{why}.*dotmac_session"):
        mock(model)


@BOTH
def test_a_class_that_is_no_model_is_a_type_error(mock):
    with pytest.raises(TypeError, match="not a mapped class"):
        mock(int)
    with pytest.raises(TypeError, match="needs a model"):
        mock()


@BOTH
def test_the_database_is_gone_with_the_last_mock(mock):
    first = mock(MockedShelf)
    second = mock(MockedBox, beside=first)
    first.add_mock_data([{"name": "top"}])
    database = weakref.ref(first._database)
    del first
    gc.collect()
    assert database() is not None
    del second
    gc.collect()
    assert database() is None


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("A%", "abc", False),
        ("%É%", "café É", True),
        ("%É%", "café", False),
        ("a\\%%", "a%c", True),
        ("a\\%%", "abc", False),
        ("a_c%", "a\nc", True),
        ("%\\\\", "x\\", True),
        ("%*%", "abc", False),
        ("%[a]%", "[a]", True),
    ],
)
@pytest.mark.parametrize("operator", ["like", "ilike"])
def test_patterns_are_postgresqls(operator, pattern, name, matches):
    if operator == "ilike" and pattern.lower() != pattern:
        matches = True
    shelves = MockRepository(MockedShelf)
    shelves.add_mock_data([{"name": name}])
    assert shelves.exists([{"field": "name", "operator": operator, "value": pattern}]) is matches


def test_case_is_folded_beyond_ascii():
    shelves = MockRepository(MockedShelf)
    shelves.add_mock_data([{"name": "Ärger"}])
    assert shelves.count([{"field": "name", "operator": "icontains", "value": "äRG"}]) == 1


def test_testing_package_imports_lightly():
    code = "import sys, dotmac.database.testing; print('sqlalchemy' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
