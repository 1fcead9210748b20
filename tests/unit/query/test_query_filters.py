"""Each filter operator says what it means in each dialect's SQL, and refuses what does not fit without showing it."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from decimal import Decimal

import pytest
from sqlalchemy import ARRAY, JSON, BigInteger, Enum, ForeignKey, Integer, SmallInteger, String
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import Mapped, mapped_column, relationship

from dotmac.database.errors import ValidationError
from dotmac.database.models import BaseModel, EncryptedString, describe
from dotmac.database.query import FilterGroup, FilterOperator, QueryFilter
from dotmac.database.query._filters import conditions
from dotmac.database.tenancy import Scope

Op = FilterOperator
DIALECTS = {"postgresql": postgresql.dialect(), "sqlite": sqlite.dialect(), "mysql": mysql.dialect()}
SECRET = "do-not-show-4242"


class Kind(enum.Enum):
    OLD = "o"
    NEW = "n"


class Shelf(BaseModel):
    __tablename__ = "f_shelves"

    room: Mapped[str]
    items: Mapped[list[Item]] = relationship(lambda: Item, back_populates="shelf")


class Item(BaseModel):
    __tablename__ = "f_items"

    name: Mapped[str | None] = mapped_column(String(50))
    rank: Mapped[int | None]
    big: Mapped[int | None] = mapped_column(BigInteger())
    small: Mapped[int | None] = mapped_column(SmallInteger())
    price: Mapped[Decimal | None]
    day: Mapped[dt.date | None]
    seen: Mapped[dt.datetime | None]
    flag: Mapped[bool | None]
    kind: Mapped[Kind | None] = mapped_column(Enum(Kind))
    tags: Mapped[list[int] | None] = mapped_column(ARRAY(Integer()))
    data: Mapped[dict[str, object] | None] = mapped_column(JSON())
    secret: Mapped[str | None] = mapped_column(EncryptedString(["k"]))
    shelf_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("f_shelves.id"))
    shelf: Mapped[Shelf | None] = relationship(lambda: Shelf, back_populates="items")


def compiled(filters, dialect="postgresql", allowed=None, model=Item):
    [clause] = conditions(describe(model), [filters], Scope(), allowed)
    return clause.compile(dialect=DIALECTS[dialect])


def sql(field, operator, value=None, dialect="postgresql"):
    text = str(compiled(QueryFilter(field=field, operator=operator, value=value), dialect))
    return text.replace("f_items.", "").replace("::VARCHAR", "").replace("::INTEGER", "")


def bound(field, operator, value):
    return list(compiled(QueryFilter(field=field, operator=operator, value=value)).params.values())


@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [
        (Op.EQ, 1, "rank = %(rank_1)s"),
        (Op.NE, 1, "rank != %(rank_1)s"),
        (Op.GT, 1, "rank > %(rank_1)s"),
        (Op.GTE, 1, "rank >= %(rank_1)s"),
        (Op.LT, 1, "rank < %(rank_1)s"),
        (Op.LTE, 1, "rank <= %(rank_1)s"),
        (Op.EQ, None, "rank IS NULL"),
        (Op.NE, None, "rank IS NOT NULL"),
        (Op.IS_NULL, None, "rank IS NULL"),
        (Op.IS_NULL, False, "rank IS NOT NULL"),
        (Op.IS_NOT_NULL, None, "rank IS NOT NULL"),
        (Op.IS_NOT_NULL, False, "rank IS NULL"),
        (Op.IN, [], "false"),
        (Op.NOT_IN, [], "true"),
        (Op.IN, [1, None], "rank IN (__[POSTCOMPILE_rank_1]) OR rank IS NULL"),
        (Op.NOT_IN, [1, None], "(rank NOT IN (__[POSTCOMPILE_rank_1])) AND rank IS NOT NULL"),
        (Op.BETWEEN, [1, 2], "rank BETWEEN %(rank_1)s AND %(rank_2)s"),
    ],
)
def test_comparisons_are_plain_sql(operator, value, expected):
    assert sql("rank", operator, value) == expected


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("operator", [Op.GT, Op.GTE, Op.LT, Op.LTE])
def test_booleans_are_ordered_too(operator, dialect):
    assert sql("flag", operator, value=True, dialect=dialect)


@pytest.mark.parametrize(
    ("operator", "value", "pattern"),
    [
        (Op.LIKE, "a_b", "a/_b"),
        (Op.ILIKE, "A/b", "A//b"),
        (Op.CONTAINS, "50%", "50/%"),
        (Op.ICONTAINS, "50%", "50/%"),
        (Op.STARTS_WITH, "_", "/_"),
        (Op.ENDS_WITH, "%_/", "/%/_//"),
    ],
)
def test_literal_text_is_escaped(operator, value, pattern):
    assert bound("name", operator, value) == [pattern]
    assert "ESCAPE '/'" in sql("name", operator, value)


@pytest.mark.parametrize(("operator", "keyword"), [(Op.LIKE, "LIKE"), (Op.ILIKE, "ILIKE")])
def test_a_percent_sign_makes_a_like_pattern(operator, keyword):
    assert f"name {keyword} %(name_1)s" in sql("name", operator, "a_%")
    assert bound("name", operator, "a_%") == ["a_%"]


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [("postgresql", "name ILIKE "), ("sqlite", "lower(name) "), ("mysql", "lower(name) LIKE ")],
)
def test_icontains_ignores_case_in_each_dialect(dialect, expected):
    assert expected in sql("name", Op.ICONTAINS, "a", dialect)


@pytest.mark.parametrize(("operator", "sign"), [(Op.ARRAY_CONTAINS, "@>"), (Op.ARRAY_CONTAINED_BY, "<@")])
def test_arrays_use_postgresqls_operators(operator, sign):
    assert f"tags {sign} " in sql("tags", operator, ["1", 2])
    assert bound("tags", operator, ["1", 2]) == [[1, 2]]


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [("postgresql", "data #>> "), ("sqlite", "JSON_EXTRACT(data, "), ("mysql", "JSON_EXTRACT(data, ")],
)
def test_json_paths_reach_into_the_column(dialect, expected):
    text = sql("data.a.0", Op.EQ, "x", dialect)
    assert expected in text


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("rank", "7", 7),
        ("price", "1.50", Decimal("1.50")),
        ("day", "2026-02-03", dt.date(2026, 2, 3)),
        ("seen", "2026-02-03T04:05:06Z", dt.datetime(2026, 2, 3, 4, 5, 6, tzinfo=dt.UTC)),
        ("seen", "2026-02-03T04:05:06", dt.datetime(2026, 2, 3, 4, 5, 6, tzinfo=dt.UTC)),
        ("seen", dt.date(2026, 2, 3), dt.datetime(2026, 2, 3, tzinfo=dt.UTC)),
        ("kind", "n", Kind.NEW),
        ("kind", "OLD", Kind.OLD),
        ("id", "00000000-0000-0000-0000-000000000007", uuid.UUID(int=7)),
    ],
)
def test_values_are_brought_to_the_columns_type(field, value, expected):
    [got] = bound(field, Op.GTE, value)
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("field", "operator", "value"),
    [
        ("rank", Op.EQ, SECRET),
        ("rank", Op.EQ, True),
        ("rank", Op.EQ, 2**31),
        ("big", Op.EQ, 2**63),
        ("small", Op.EQ, -(2**15) - 1),
        ("id", Op.EQ, SECRET),
        ("day", Op.EQ, SECRET),
        ("seen", Op.IN, [SECRET]),
        ("kind", Op.EQ, SECRET),
        ("flag", Op.EQ, SECRET),
        ("price", Op.BETWEEN, [0, SECRET]),
        ("name", Op.EQ, SECRET + "\x00"),
        ("name", Op.CONTAINS, SECRET + "\ud800"),
        ("name", Op.LIKE, None),
        ("name", Op.IN, SECRET),
        ("rank", Op.BETWEEN, [1]),
        ("rank", Op.BETWEEN, [1, None]),
        ("rank", Op.GT, None),
        ("rank", Op.LIKE, SECRET),
        ("rank", Op.ARRAY_CONTAINS, SECRET),
        ("rank", Op.IS_NULL, SECRET),
        ("secret", Op.LIKE, SECRET),
        ("tags", Op.ARRAY_CONTAINS, [SECRET]),
        ("data", Op.EQ, SECRET),
        ("data.key", Op.EQ, [SECRET]),
        ("data.key", Op.ARRAY_CONTAINS, SECRET),
        ("name.key", Op.EQ, SECRET),
        ("seen", Op.GTE, "9999-12-31T23:59:59.999999-14:00"),
        ("seen", Op.GTE, "0001-01-01T00:00:00+14:00"),
        ("nothing", Op.EQ, SECRET),
        ("shelf.nothing", Op.EQ, SECRET),
    ],
)
def test_what_does_not_fit_is_refused_and_never_shown(field, operator, value):
    with pytest.raises(ValidationError) as refused:
        compiled(QueryFilter(field=field, operator=operator, value=value))
    message = str(refused.value)
    assert SECRET not in message
    assert "Item" in message or "Shelf" in message


def test_an_unknown_field_lists_the_known_ones():
    with pytest.raises(ValidationError, match=r"Item has no field 'nam'\. It has: .*name.*"):
        compiled(QueryFilter(field="nam", value=1))


def test_a_field_that_is_not_listed_is_refused():
    with pytest.raises(ValidationError, match=r"cannot be filtered by 'rank'\. Allowed: name\."):
        compiled(QueryFilter(field="rank", value=1), allowed={"name"})


@pytest.mark.parametrize(("model", "field"), [(Item, "shelf.room"), (Shelf, "items.name")])
def test_a_relation_is_an_exists_so_that_rows_never_multiply(model, field):
    text = str(compiled(QueryFilter(field=field, value="x"), model=model))
    assert text.startswith("EXISTS (SELECT 1")
    assert "JOIN" not in text


def test_groups_combine_with_and_or_and_not():
    one, two, three = (QueryFilter(field="rank", value=n) for n in (1, 2, 3))
    group = FilterGroup(all_of=[one], any_of=[one, FilterGroup(none_of=[two])], none_of=[three])
    text = str(compiled(group)).replace("f_items.", "").replace("::INTEGER", "")
    assert text == ("rank = %(rank_1)s AND (rank = %(rank_2)s OR rank != %(rank_3)s) AND rank != %(rank_4)s")


def test_a_group_without_conditions_is_refused():
    with pytest.raises(ValidationError, match="at least one condition"):
        FilterGroup()


def test_groups_nest_only_so_deep():
    group = FilterGroup(all_of=[QueryFilter(field="rank", value=1)])
    for _ in range(20):
        group = FilterGroup(all_of=[group])
    with pytest.raises(ValidationError, match="at most 16 deep"):
        compiled(group)
