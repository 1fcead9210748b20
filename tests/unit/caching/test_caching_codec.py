"""Every value that goes in comes out equal and of the same type, or is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Enum as EnumColumn
from sqlalchemy import inspect
from sqlalchemy.orm import Mapped, mapped_column
from sqlmodel import Field, SQLModel

from dotmac.database import Base, BaseModel
from dotmac.database.caching._codec import Codec, DamagedValueError
from dotmac.database.caching._models import Models
from dotmac.database.errors import ValidationError

PLAIN = Codec(Models())
ZONES = st.none() | st.just(UTC) | st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m)))
HASHABLE = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.timedeltas()
    | st.datetimes(timezones=ZONES)
    | st.times()
)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.just("$"), inner, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.sets(HASHABLE, max_size=4)
        | st.frozensets(HASHABLE, max_size=4)
    ),
    max_leaves=20,
)


def same(one, other):
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            same(a, b) for pair in zip(one.items(), other.items(), strict=True) for a, b in [pair]
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other and repr(one) == repr(other) if isinstance(one, float) else one == other


@given(VALUES)
def test_a_value_comes_back_equal_and_of_its_type(value):
    assert same(PLAIN.decode(*PLAIN.encode(value)), value)


@given(st.binary(max_size=200), st.integers(0, 127))
def test_foreign_bytes_are_a_value_or_damaged_and_nothing_else(body, form):
    with contextlib.suppress(DamagedValueError):
        PLAIN.decode(form, body)


@given(st.text(alphabet='{}[]",:$v mtuplesdicintfloatuuidmodel0123456789', max_size=80))
def test_foreign_json_is_a_value_or_damaged_and_nothing_else(text):
    with contextlib.suppress(DamagedValueError):
        PLAIN.decode(1, text.encode())


class Colour(enum.Enum):
    RED = object()
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: int
    where: tuple[Colour, ...] = ()


class Address(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")

    street: str = pydantic.Field(alias="Street")
    since: date | None = None
    point: Point | None = None


class Person(pydantic.BaseModel):
    addresses: list[Address]
    photo: bytes = b"\xff"


class Hooked(pydantic.BaseModel):
    """Whose hook reads its fields and keeps something of its own."""

    model_config = pydantic.ConfigDict(frozen=True)

    width: int
    label: str = "none"
    _double: int = pydantic.PrivateAttr(0)

    def model_post_init(self, _context):
        self._double = self.width * 2


class Crate(BaseModel):
    __tablename__ = "codec_crates"

    colour: Mapped[Colour] = mapped_column(EnumColumn(Colour))
    price: Mapped[Decimal]


class Ticket(SQLModel, table=True):
    __tablename__ = "codec_tickets"

    id: int | None = Field(default=None, primary_key=True)
    title: str


MODELS = Codec(Models([Person, Crate, Ticket]))


def test_pydantic_models_come_back_with_what_they_hold():
    person = Person(
        addresses=[Address(Street="Main", since=date(2026, 1, 1), point=Point(1, (Colour.RED,)), floor=3)]
    )
    back = MODELS.decode(*MODELS.encode(person))
    assert back == person
    assert (back.model_fields_set, back.addresses[0].floor) == ({"addresses"}, 3)


def test_a_pydantic_model_keeps_what_its_hook_made_and_the_hook_does_not_run_again():
    codec = Codec(Models([Hooked]))
    made = Hooked(width=2)
    made._double = 5
    back = codec.decode(*codec.encode(made))
    assert back == made
    assert (back._double, back.model_fields_set, hash(back)) == (5, {"width"}, hash(made))


def test_entities_come_back_detached_by_their_columns():
    crate = Crate(
        id=uuid.uuid4(),
        colour=Colour.BLUE,
        price=Decimal("1.50"),
        created_at=datetime.now(UTC),
        updated_at=datetime.now(UTC),
    )
    back = MODELS.decode(*MODELS.encode({"crate": crate}))["crate"]
    assert back.to_dict() == crate.to_dict()
    assert inspect(back).detached
    assert not inspect(back).modified
    ticket = MODELS.decode(*MODELS.encode(Ticket(id=1, title="Seat")))
    assert (ticket.id, ticket.title, type(ticket)) == (1, "Seat", Ticket)
    assert inspect(ticket).detached


def test_an_entity_that_is_not_loaded_is_refused_and_not_loaded():
    with pytest.raises(ValidationError, match="not loaded are id"):
        MODELS.encode(Crate(colour=Colour.RED))


@pytest.mark.parametrize(
    "value", [Point(1), Colour.RED, Person(addresses=[]), 1j, object, Ellipsis], ids=range(6)
)
def test_what_was_not_given_to_the_cache_is_refused_by_name(value):
    with pytest.raises(ValidationError, match="cannot be cached"):
        PLAIN.encode(value)


def test_a_class_is_made_only_if_it_was_given_to_the_cache():
    stored = MODELS.encode(Person(addresses=[]))
    with pytest.raises(DamagedValueError):
        PLAIN.decode(*stored)


def test_a_value_that_holds_itself_is_refused():
    value: list = []
    value.append(value)
    with pytest.raises(ValidationError, match="nested too deeply"):
        PLAIN.encode(value)


def test_enums_that_are_numbers_or_texts_are_stored_as_such():
    assert PLAIN.decode(*PLAIN.encode([Size.SMALL])) == [1]


class DriversUUID(uuid.UUID):
    """As asyncpg has one."""


def test_subclasses_of_values_come_back_as_what_they_are_subclasses_of():
    value = DriversUUID(int=1)
    assert same(PLAIN.decode(*PLAIN.encode([value])), [uuid.UUID(int=1)])


def test_a_changed_model_changes_the_fingerprint():
    @dataclasses.dataclass
    class Point:
        x: int

    before = Models([Point]).shape()

    @dataclasses.dataclass
    class Point:
        x: int
        y: int

    assert before != Models([Point]).shape() != b""


@pytest.mark.parametrize("model", [int, str, object, "Person", Base])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(TypeError, match="not a model"):
        Models([model])


@pytest.mark.parametrize("moment", [time(1, 30, fold=1), datetime(2026, 10, 25, 2, 30, fold=1)])  # noqa: DTZ001 - naive on purpose
def test_the_fold_survives(moment):
    assert PLAIN.decode(*PLAIN.encode(moment)).fold == 1
