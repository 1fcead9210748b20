"""Which statements are taken to change a table, told by their words alone."""

from __future__ import annotations

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table

from dotmac.database.caching._entity_sql import Reach, read_sentence

METADATA = MetaData()
FLEETS = Table("fleets", METADATA, Column("id", Integer, primary_key=True))
SHIPS = Table(
    "ships",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("fleet_id", ForeignKey("fleets.id", ondelete="CASCADE")),
)
MASTS = Table(
    "masts",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("ship_id", ForeignKey("ships.id", ondelete="SET NULL", onupdate="CASCADE")),
)


@pytest.mark.parametrize(
    ("sql", "writes", "only_inserts"),
    [
        ("SELECT * FROM ships", False, False),
        ("SELECT * FROM ships FOR UPDATE SKIP LOCKED", False, False),
        ("SELECT updated_at, deleted_at FROM ships FOR NO KEY UPDATE", False, False),
        ("INSERT INTO ships VALUES (1)", True, True),
        ("INSERT INTO ships VALUES (1) ON CONFLICT DO NOTHING", True, True),
        ("INSERT INTO ships VALUES (1) ON CONFLICT (id) DO UPDATE SET id = 2", True, False),
        ("COPY ships FROM STDIN", True, True),
        ("/* why */ INSERT INTO ships VALUES (1)", True, False),
        ("WITH x AS (DELETE FROM ships RETURNING 1) INSERT INTO masts SELECT 1 FROM x", True, False),
        ("REPLACE INTO ships VALUES (1)", True, False),
        ("CALL sink()", True, False),
    ],
)
def test_what_writes_is_told_by_its_words(sql, writes, only_inserts):
    sentence = read_sentence(sql)
    assert (sentence.writes, sentence.only_inserts) == (writes, only_inserts)


@pytest.mark.parametrize(
    ("sql", "named", "reached"),
    [
        ("DELETE FROM fleets", [], ["ships", "masts"]),
        ("TRUNCATE fleets CASCADE", [], ["ships", "masts"]),
        ('UPDATE "public"."ships" SET id = 2 WHERE id = 1', ["ships"], ["masts"]),
        ("UPDATE ships SET fleet_id = 2 WHERE id = 1", ["ships"], []),
        ("DELETE FROM masts", ["masts"], []),
        ("DELETE FROM ships_of_others", [], []),
    ],
)
def test_foreign_keys_with_an_action_carry_changes_on(sql, named, reached):
    sentence = read_sentence(sql)
    reaches = {table.name: Reach(table) for table in (SHIPS, MASTS)}
    assert [name for name, reach in reaches.items() if reach.is_named(sentence)] == named
    assert [name for name, reach in reaches.items() if reach.is_reached(sentence)] == reached
