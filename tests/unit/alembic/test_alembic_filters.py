from __future__ import annotations

import pytest
from sqlalchemy import Column, Index, Integer, MetaData, Table

from dotmac.database.alembic import include_object
from dotmac.database.alembic._filters import name_filter


def table(name: str = "item", **options) -> Table:
    return Table(name, MetaData(), Column("id", Integer), Column("name", Integer), **options)


def included(item, name: str, type_: str, *, reflected: bool = True, compare_to=None, **options) -> bool:
    return include_object(item, name, type_, reflected, compare_to, **options)


@pytest.mark.parametrize("schema", ["information_schema", "pg_catalog", "topology"])
def test_system_and_extension_schemas_are_left_alone(schema):
    item = table(schema=schema)
    assert not included(item, "item", "table")
    assert not included(item.c.id, "id", "column")
    assert not included(Index("ix", item.c.id), "ix", "index")


@pytest.mark.parametrize("name", ["alembic_version", "spatial_ref_sys"])
def test_a_foreign_table_is_left_alone_unless_the_models_define_it(name):
    found = table(name)
    assert not included(found, name, "table")
    assert included(found, name, "table", compare_to=table(name))
    assert included(found, name, "table", reflected=False)


@pytest.mark.parametrize("skip_views", [True, False])
def test_views_are_compared_only_on_request(skip_views):
    view = table(info={"is_view": True})
    assert included(view, "item", "table", reflected=False, skip_views=skip_views) is not skip_views


def test_the_callers_own_schemas_replace_the_default_ones():
    assert not included(table(schema="legacy"), "item", "table", skip_schemas={"legacy"})
    assert included(table(schema="topology"), "item", "table", skip_schemas={"legacy"})


def test_ordinary_objects_are_compared():
    item = table()
    assert included(item, "item", "table")
    assert included(item.c.id, "id", "column", reflected=False)


def test_only_schemas_of_the_models_are_looked_into():
    include = name_filter([table(schema="warehouse").metadata])
    assert include("warehouse", "schema", {})
    assert include(None, "schema", {})
    assert not include("tenant_acme", "schema", {})


def test_named_schemas_replace_those_of_the_models():
    include = name_filter([table(schema="warehouse").metadata], schemas={"legacy"})
    assert include("legacy", "schema", {})
    assert not include("warehouse", "schema", {})


def test_foreign_tables_are_skipped_before_they_are_read():
    include = name_filter([table().metadata], foreign=lambda: {(None, "item"), (None, "item_2030")})
    assert include("item", "table", {"schema_name": None})
    assert not include("item_2030", "table", {"schema_name": None})
    assert include("item_2030", "table", {"schema_name": "other"})
    assert include("ix", "index", {"schema_name": None})
