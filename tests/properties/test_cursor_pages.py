"""Cursor pages against a Python oracle: any sort list, NULLs, ties, both directions, and rows that come and go."""

from __future__ import annotations

import datetime as dt
import enum
import os
import random
import uuid
from dataclasses import dataclass
from decimal import Decimal
from functools import cmp_to_key
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    Boolean,
    Column,
    Date,
    Enum,
    Float,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Uuid,
    delete,
    insert,
    make_url,
)
from sqlalchemy.orm import Session, registry

from dotmac.database.engine import create_engine
from dotmac.database.models import UTCDateTime
from dotmac.database.query import CursorPaginationParams, NullsOrder, QueryOptions, SortField, SortOrder
from dotmac.database.repository import BaseRepository

FULL = os.environ.get("DOTMAC_TEST_FULL") == "1"
PROVE = settings(
    max_examples=1000 if FULL else 60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Color(enum.Enum):
    RED = "r"
    BLUE = "b"
    GREEN = "g"


EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
# Few values each, so that ties are the rule; the texts sort by code point in every encoding.
DOMAINS: dict[str, tuple[Any, list[Any]]] = {
    "ident": (
        lambda: Uuid().with_variant(Uuid(native_uuid=False), "mysql"),
        [uuid.UUID(int=n << 120 | n) for n in (0, 1, 127, 128, 255)],
    ),
    "moment": (
        UTCDateTime,
        [EPOCH + dt.timedelta(microseconds=n) for n in (0, 1, 999_999, 1_000_000, -1)],
    ),
    "price": (lambda: Numeric(12, 2), [Decimal(n) / 100 for n in (-1000, -1, 0, 1, 999, 100_000)]),
    "word": (
        lambda: (
            String(20)
            .with_variant(String(20, collation="C"), "postgresql")
            .with_variant(String(20, collation="utf8mb4_bin"), "mysql")
        ),
        ["", "A", "B", "a", "a%", "é", "日", "z"],
    ),
    "flag": (Boolean, [True, False]),
    "color": (lambda: Enum(Color, name="cursor_color"), list(Color)),
    "number": (Integer, [-(2**31), -1, 0, 1, 2**31 - 1]),
    "day": (
        Date,
        [dt.date(1, 1, 1), dt.date(2026, 2, 28), dt.date(2026, 3, 1), dt.date(9999, 12, 31)],
    ),
    "ratio": (lambda: Float(53), [-0.5, 0.0, 0.1, 1e300]),
}
NAMES = [*DOMAINS, *(f"{name}_or_null" for name in DOMAINS)]


class Thing:
    """A row with a column of every kind, nullable and not."""


METADATA = MetaData()
TABLE = Table(
    "cursor_things",
    METADATA,
    Column("id", Uuid().with_variant(Uuid(native_uuid=False), "mysql"), primary_key=True),
    *(Column(name, make(), nullable=False) for name, (make, _) in DOMAINS.items()),
    *(Column(f"{name}_or_null", make(), nullable=True) for name, (make, _) in DOMAINS.items()),
)
registry(metadata=METADATA).map_imperatively(Thing, TABLE)


@pytest.fixture(scope="module", params=["postgresql", "sqlite", "mysql"])
def engine(request):
    if request.param == "sqlite":
        url = "sqlite+pysqlite:///:memory:"
    elif request.param == "mysql":
        url = make_url(request.getfixturevalue("mysql_url")).set(drivername="mysql+pymysql")
    else:
        url = request.getfixturevalue("dotmac_database").url("psycopg")
    engine = create_engine(url)
    METADATA.create_all(engine)
    yield engine
    METADATA.drop_all(engine)
    engine.dispose()


def make_rows(chance: random.Random, count: int) -> list[dict[str, Any]]:
    """Rows from a seed: drawn value by value, they would take most of the time and still be small."""
    return [
        {
            "id": uuid.UUID(
                int=chance.getrandbits(128)
            ),  # rows that come later land everywhere among their ties
            **{name: chance.choice(values) for name, (_, values) in DOMAINS.items()},
            **{
                f"{name}_or_null": chance.choice([None, None, *values])
                for name, (_, values) in DOMAINS.items()
            },
        }
        for _ in range(count)
    ]


SEEDS, COUNTS = st.integers(0, 2**32), st.integers(0, 30)
SORTS = st.lists(
    st.builds(
        SortField,
        field=st.sampled_from([*NAMES, *NAMES, "id"]),
        order=st.sampled_from(SortOrder),
        nulls=st.sampled_from([None, *NullsOrder]),
    ),
    max_size=4,
)


@dataclass
class Oracle:
    """The order that pages must have, computed in Python."""

    sorts: list[SortField]
    dialect: str

    def sorted(self, rows: list[dict[str, Any]]) -> list[uuid.UUID]:
        return [row["id"] for row in sorted(rows, key=cmp_to_key(self._compare))]

    def _compare(self, left: dict[str, Any], right: dict[str, Any]) -> int:
        for sort in self.sorts:
            a, b = left[sort.field], right[sort.field]
            if a is None and b is None:
                continue
            if a is None or b is None:
                return -1 if (a is None) == sort.nulls_first else 1
            a, b = self._rank(a), self._rank(b)
            if a != b:
                return (1 if a < b else -1) if sort.descending else (-1 if a < b else 1)
        # Appended in the last sort's direction.
        sign = -1 if self.sorts and self.sorts[-1].descending else 1
        return sign * ((left["id"] > right["id"]) - (left["id"] < right["id"]))

    def _rank(self, value: Any) -> Any:
        if isinstance(value, Color):  # PostgreSQL sorts an ENUM by declaration, the others by name
            return list(Color).index(value) if self.dialect == "postgresql" else value.name
        return value


@dataclass
class Pager:
    """Fetches pages of one query."""

    repository: BaseRepository[Any]
    sorts: list[SortField]
    limit: int

    def fetch(self, cursor: str | None = None):
        params = CursorPaginationParams(limit=self.limit, cursor=cursor)
        page = self.repository.cursor_paginate(QueryOptions(sorts=self.sorts, cursor_pagination=params))
        assert page.has_next == (page.next_cursor is not None)
        assert page.has_prev == (page.prev_cursor is not None)
        return page, [row.id for row in page.items]


class Signed(BaseRepository[Any]):
    cursor_secret = "a secret of the tests"


def fill(session: Session, rows: list[dict[str, Any]]) -> None:
    if rows:
        session.execute(insert(TABLE), rows)


@PROVE
@given(
    seed=SEEDS,
    count=COUNTS,
    sorts=SORTS,
    limit=st.integers(1, 7),
    turns=st.lists(st.booleans(), max_size=8),
    signed=st.booleans(),
)
def test_pages_are_slices_of_the_total_order_whichever_way_one_turns(
    engine, seed, count, sorts, limit, turns, signed
):
    rows = make_rows(random.Random(seed), count)  # noqa: S311 - test data
    expected = Oracle(sorts, engine.dialect.name).sorted(rows)
    with Session(engine) as session:
        fill(session, rows)
        pager = Pager((Signed if signed else BaseRepository)(session, Thing), sorts, limit)
        start = stop = 0
        cursor: str | None = None

        def go(first: int, to: str | None) -> Any:
            nonlocal start, stop
            page, ids = pager.fetch(to)
            start, stop = max(first, 0), start if first < start else min(first + limit, len(expected))
            assert ids == expected[start:stop]
            assert (page.has_prev, page.has_next) == (start > 0, stop < len(expected))
            return page

        page = go(0, cursor)
        while page.has_next:
            page = go(stop, page.next_cursor)
        for forwards in turns:
            if forwards and page.has_next:
                page = go(stop, page.next_cursor)
            elif not forwards and page.has_prev:
                page = go(start - limit, page.prev_cursor)
        while page.has_prev:
            page = go(start - limit, page.prev_cursor)
        assert start == 0


@PROVE
@given(seed=SEEDS, count=COUNTS, sorts=SORTS, limit=st.integers(1, 7), backwards=st.booleans())
def test_rows_that_stay_appear_exactly_once_and_in_order_while_others_come_and_go(
    engine, seed, count, sorts, limit, backwards
):
    chance = random.Random(seed)  # noqa: S311 - test data
    rows = make_rows(chance, count)
    oracle = Oracle(sorts, engine.dialect.name)
    here, stayed = {row["id"]: row for row in rows}, {row["id"] for row in rows}
    known = dict(here)
    with Session(engine) as session:
        fill(session, rows)
        pager = Pager(BaseRepository(session, Thing), sorts, limit)
        page, ids = pager.fetch()
        while backwards and page.next_cursor:
            page, ids = pager.fetch(page.next_cursor)
        seen = list(ids)
        while (cursor := page.prev_cursor if backwards else page.next_cursor) is not None:
            for gone in chance.sample(sorted(here), min(len(here), chance.randrange(3))):
                session.execute(delete(TABLE).where(TABLE.c.id == gone))
                del here[gone]
                stayed.discard(gone)
            if len(known) < 2 * count:
                fill(session, added := make_rows(chance, chance.randrange(3)))
                here |= (fresh := {row["id"]: row for row in added})
                known |= fresh
            page, ids = pager.fetch(cursor)
            seen = [*ids, *seen] if backwards else [*seen, *ids]
    assert len(set(seen)) == len(seen)
    assert seen == [key for key in oracle.sorted(list(known.values())) if key in set(seen)]
    assert [key for key in seen if key in stayed] == [key for key in oracle.sorted(rows) if key in stayed]
