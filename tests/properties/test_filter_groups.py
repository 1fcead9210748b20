"""Nested groups of filters against a three-valued oracle: NULLs, coerced values and literal text."""

from __future__ import annotations

import datetime as dt
import enum
import os
import random
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    Boolean,
    Column,
    Date,
    Enum,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    insert,
    make_url,
)
from sqlalchemy.orm import Session, registry

from dotmac.database.engine import create_engine
from dotmac.database.query import FilterGroup, FilterOperator, QueryFilter
from dotmac.database.repository import BaseRepository

if TYPE_CHECKING:
    from collections.abc import Callable

Op = FilterOperator
PROVE = settings(
    max_examples=3000 if os.environ.get("DOTMAC_TEST_FULL") == "1" else 80, deadline=None, database=None
)


class Color(enum.Enum):
    RED = "r"
    BLUE = "b"


WORDS = ["", "a", "A", "ab", "aB", "a%b", "a_b", "a\\b", "a/b", "100%", "'", "é", "日本"]
TEXT = String(20).with_variant(String(20, collation="C"), "postgresql")
TYPES: dict[str, tuple[Any, list[Any]]] = {
    "number": (Integer(), [-1, 0, 1, 2]),
    "word": (TEXT.with_variant(String(20, collation="utf8mb4_bin"), "mysql"), WORDS),
    "flag": (Boolean(), [True, False]),
    "day": (Date(), [dt.date(2026, 1, 1), dt.date(2026, 2, 1)]),
    "price": (Numeric(12, 2), [Decimal("-1.50"), Decimal("0.00"), Decimal("2.25")]),
    "color": (Enum(Color, name="filter_color"), list(Color)),
}


class Row:
    """A row whose every column may be NULL."""


METADATA = MetaData()
TABLE = Table(
    "filter_rows",
    METADATA,
    Column("id", Integer(), primary_key=True),
    *(Column(name, kind, nullable=True) for name, (kind, _) in TYPES.items()),
)
registry(metadata=METADATA).map_imperatively(Row, TABLE)

_chance = random.Random(7)  # noqa: S311 - test data
ROWS = [
    {"id": number, **{name: _chance.choice([None, *values]) for name, (_, values) in TYPES.items()}}
    for number in range(1, 81)
]


@pytest.fixture(scope="module", params=["postgresql", "sqlite", "mysql"])
def session(request):
    if request.param == "sqlite":
        url = "sqlite+pysqlite:///:memory:"
    elif request.param == "mysql":
        url = make_url(request.getfixturevalue("mysql_url")).set(drivername="mysql+pymysql")
    else:
        url = request.getfixturevalue("dotmac_database").url("psycopg")
    engine = create_engine(url)
    METADATA.create_all(engine)
    with Session(engine) as session:
        session.execute(insert(TABLE), ROWS)
        yield session
    METADATA.drop_all(engine)
    engine.dispose()


def as_text(value: Any) -> Any:
    """The value as a query string would hold it."""
    if isinstance(value, Color):
        return value.value
    return value if value is None else str(value)


@st.composite
def conditions(draw: st.DrawFn) -> QueryFilter:
    field = draw(st.sampled_from(sorted(TYPES)))
    values = st.sampled_from(TYPES[field][1])
    operators = [Op.EQ, Op.NE, Op.IN, Op.NOT_IN, Op.IS_NULL, Op.IS_NOT_NULL]
    if field != "color":  # PostgreSQL orders an ENUM by declaration, the others by name
        operators += [Op.GT, Op.GTE, Op.LT, Op.LTE, Op.BETWEEN]
    if field == "word":
        operators += [Op.LIKE, Op.ILIKE, Op.CONTAINS, Op.ICONTAINS, Op.STARTS_WITH, Op.ENDS_WITH]
    operator = draw(st.sampled_from(operators))
    if operator in {Op.IS_NULL, Op.IS_NOT_NULL}:
        value = draw(st.sampled_from([None, True, False]))
    elif operator in {Op.IN, Op.NOT_IN}:
        value = draw(st.lists(values | st.none(), max_size=3))
    elif operator is Op.BETWEEN:
        value = draw(st.tuples(values, values))
    elif operator in {Op.LIKE, Op.ILIKE}:
        # In a pattern a backslash escapes on some databases only.
        value = draw(st.sampled_from(["a", "B", "_", "\\", "a%", "%b", "%A_b%", "%", "_%"]))
    elif operator in {Op.EQ, Op.NE}:
        value = draw(values | st.none())
    else:
        value = draw(values)
    if draw(st.booleans()):
        value = [as_text(part) for part in value] if isinstance(value, list | tuple) else value
        if operator not in {Op.IS_NULL, Op.IS_NOT_NULL} and not isinstance(value, list):
            value = as_text(value)
    return QueryFilter(field=field, operator=operator, value=value)


def groups(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[FilterGroup]:
    parts = st.lists(inner, max_size=3)
    return (
        st.tuples(parts, parts, parts)
        .filter(any)
        .map(lambda three: FilterGroup(all_of=three[0], any_of=three[1], none_of=three[2]))
    )


TREES = st.lists(st.recursive(conditions(), groups, max_leaves=8), max_size=3)


def all_true(truths: list[bool | None]) -> bool | None:
    return False if False in truths else None if None in truths else True


def negated(truth: bool | None) -> bool | None:  # noqa: FBT001 - three-valued
    return None if truth is None else not truth


def any_true(truths: list[bool | None]) -> bool | None:
    return negated(all_true([negated(truth) for truth in truths]))


def truth_of(item: QueryFilter | FilterGroup, row: dict[str, Any]) -> bool | None:
    if isinstance(item, FilterGroup):
        truths = [truth_of(part, row) for part in item.all_of]
        if item.any_of:
            truths.append(any_true([truth_of(part, row) for part in item.any_of]))
        truths += [negated(truth_of(part, row)) for part in item.none_of]
        return all_true(truths)
    return truth_of_condition(item.operator, row[item.field], parsed(item.field, item.value, item.operator))


def parsed(field: str, value: Any, operator: FilterOperator) -> Any:
    if operator in {Op.IS_NULL, Op.IS_NOT_NULL}:
        return value
    if isinstance(value, list | tuple):
        return [parsed(field, part, Op.EQ) for part in value]
    if not isinstance(value, str) or field == "word":
        return value
    return next(known for known in TYPES[field][1] if as_text(known) == value)


def truth_of_condition(operator: FilterOperator, have: Any, value: Any) -> bool | None:
    if operator in {Op.IS_NULL, Op.IS_NOT_NULL}:
        return (have is None) == ((operator is Op.IS_NULL) == (value is not False))
    if operator in {Op.EQ, Op.NE} and value is None:
        return (have is None) == (operator is Op.EQ)
    if operator in {Op.IN, Op.NOT_IN}:
        return membership(operator, have, value)
    if have is None:
        return None
    return COMPARED[operator](have, value)


def membership(operator: FilterOperator, have: Any, values: list[Any]) -> bool | None:
    """``IN`` with None among the values also takes NULL rows, ``NOT IN`` also leaves them out."""
    known = [value for value in values if value is not None]
    if have is None:
        unknown = None if known else operator is Op.NOT_IN
        if None not in values:
            return unknown
        return operator is Op.IN
    return (have in known) == (operator is Op.IN)


def like(have: str, value: str) -> bool:
    if "%" not in value:
        return value in have
    pattern = "".join({"%": ".*", "_": "."}.get(char, re.escape(char)) for char in value)
    return re.fullmatch(pattern, have, re.DOTALL) is not None


COMPARED: dict[FilterOperator, Callable[[Any, Any], bool]] = {
    Op.EQ: lambda have, value: have == value,
    Op.NE: lambda have, value: have != value,
    Op.GT: lambda have, value: have > value,
    Op.GTE: lambda have, value: have >= value,
    Op.LT: lambda have, value: have < value,
    Op.LTE: lambda have, value: have <= value,
    Op.BETWEEN: lambda have, value: value[0] <= have <= value[1],
    Op.CONTAINS: lambda have, value: value in have,
    Op.ICONTAINS: lambda have, value: value.lower() in have.lower(),
    Op.STARTS_WITH: lambda have, value: have.startswith(value),
    Op.ENDS_WITH: lambda have, value: have.endswith(value),
    Op.LIKE: like,
    Op.ILIKE: lambda have, value: like(have.lower(), value.lower()),
}


@PROVE
@given(filters=TREES)
def test_exactly_the_rows_for_which_every_filter_is_true_are_selected(session, filters):
    repository = BaseRepository(session, Row)
    expected = [row["id"] for row in ROWS if all(truth_of(item, row) is True for item in filters)]
    assert [row.id for row in repository.list({"filters": filters})] == expected
    assert repository.count(filters) == len(expected)
    assert repository.exists(filters) == bool(expected)
