"""The order and the keyset condition, as SQL that an index can serve, for NULLs at either end."""

from __future__ import annotations

import enum
import uuid

import pytest
from sqlalchemy import JSON, Column, Double, Enum, Float, Integer, MetaData, String, Table
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import Mapped, mapped_column, registry

from dotmac.database.errors import ValidationError
from dotmac.database.models import BaseModel, TenantModel, describe
from dotmac.database.query import SortField, total_order
from dotmac.database.query._keyset import after, order_by, require_exact

DIALECTS = {"postgresql": postgresql.dialect(), "sqlite": sqlite.dialect(), "mysql": mysql.dialect()}
KEY = uuid.UUID(int=7)


class Hue(enum.Enum):
    RED = 1


class Spot(BaseModel):
    __tablename__ = "k_spots"

    a: Mapped[int]
    b: Mapped[int | None]
    hue: Mapped[Hue] = mapped_column(Enum(Hue))
    data: Mapped[dict[str, int]] = mapped_column(JSON())


class Owned(TenantModel):
    __tablename__ = "k_owned"

    name: Mapped[str] = mapped_column(String(20))


def keys(*sorts, model=Spot):
    return total_order(describe(model), [SortField(**sort) for sort in sorts])


def text(clause, dialect):
    found = str(clause.compile(dialect=DIALECTS[dialect], compile_kwargs={"literal_binds": True}))
    return found.replace("k_spots.", "").replace(f"'{KEY}'", "'key'").replace(f"'{KEY.hex}'", "'key'")


def order(dialect, *sorts):
    return ", ".join(text(clause, dialect) for clause in order_by(keys(*sorts), dialect))


@pytest.mark.parametrize(
    ("sort", "postgresql", "sqlite", "mysql"),
    [
        ({"field": "a"}, "a ASC", "a ASC", "a ASC"),
        ({"field": "b"}, "b ASC", "b ASC NULLS LAST", "b IS NULL ASC, b ASC"),
        ({"field": "b", "order": "desc"}, "b DESC", "b DESC NULLS FIRST", "b IS NULL DESC, b DESC"),
        ({"field": "b", "nulls": "first"}, "b ASC NULLS FIRST", "b ASC NULLS FIRST", "b IS NULL DESC, b ASC"),
        (
            {"field": "b", "order": "desc", "nulls": "last"},
            "b DESC NULLS LAST",
            "b DESC NULLS LAST",
            "b IS NULL ASC, b DESC",
        ),
        ({"field": "hue"}, "hue ASC", "hue ASC", "CAST(hue AS CHAR(255)) ASC"),
    ],
)
def test_nulls_are_placed_in_each_dialects_words(sort, postgresql, sqlite, mysql):
    tail = ", id DESC" if sort.get("order") == "desc" else ", id ASC"
    assert order("postgresql", sort) == postgresql + tail
    assert order("sqlite", sort) == sqlite + tail
    assert order("mysql", sort) == mysql + tail


def test_one_direction_without_nulls_is_a_row_comparison():
    clause = after(keys({"field": "a"}), [1, KEY], "postgresql")
    assert text(clause, "postgresql") == "(a, id) > (1, 'key')"
    backwards = [key.reversed() for key in keys({"field": "a"})]
    assert text(after(backwards, [1, KEY], "postgresql"), "postgresql") == "(a, id) < (1, 'key')"


@pytest.mark.parametrize(
    ("sort", "value", "condition"),
    [
        ({"field": "b"}, 1, "b > 1 OR b IS NULL OR b = 1 AND id > 'key'"),
        ({"field": "b"}, None, "b IS NULL AND id > 'key'"),
        ({"field": "b", "nulls": "first"}, 1, "b >= 1 AND (b > 1 OR b = 1 AND id > 'key')"),
        ({"field": "b", "nulls": "first"}, None, "b IS NOT NULL OR b IS NULL AND id > 'key'"),
    ],
)
def test_null_is_one_value_at_its_end_of_the_order(sort, value, condition):
    assert text(after(keys(sort), [value, KEY], "sqlite"), "sqlite").replace("(", "").replace(")", "") == (
        condition.replace("(", "").replace(")", "")
    )


def test_mysql_gets_a_condition_that_its_indexes_serve():
    clause = text(after(keys({"field": "a"}), [1, KEY], "mysql"), "mysql")
    assert clause.startswith("a >= 1 AND (")


def test_the_key_comes_last_and_once():
    assert [key.attribute.key for key in keys({"field": "a"})] == ["a", "id"]
    assert [key.attribute.key for key in keys({"field": "id"})] == ["id"]
    assert [key.attribute.key for key in keys(model=Owned)] == ["tenant_id", "id"]


def test_a_key_reversed_twice_is_itself():
    [first, *_] = keys({"field": "b", "order": "desc", "nulls": "last"})
    turned = first.reversed()
    assert (turned.descending, turned.nulls_first) == (False, True)
    back = turned.reversed()
    assert (back.descending, back.nulls_first) == (True, False)


@pytest.mark.parametrize("field", ["data", "nothing", "data.key"])
def test_what_has_no_order_is_refused(field):
    with pytest.raises(ValidationError, match="Spot"):
        keys({"field": field})


def test_a_field_that_is_not_listed_is_refused():
    with pytest.raises(ValidationError, match="cannot be sorted by 'a'"):
        total_order(describe(Spot), [SortField(field="a")], {"b"})


@pytest.mark.parametrize(("kind", "refused"), [(Float(), True), (Float(53), False), (Double(), False)])
def test_positions_in_single_precision_are_refused_on_mysql(kind, refused):
    table = Table("measured", MetaData(), Column("id", Integer, primary_key=True), Column("value", kind))
    model = type("Measured", (), {})
    registry().map_imperatively(model, table)
    keys = total_order(describe(model), [SortField(field="value")])
    require_exact(keys, "postgresql")
    if refused:
        with pytest.raises(ValidationError, match="single-precision"):
            require_exact(keys, "mysql")
    else:
        require_exact(keys, "mysql")
