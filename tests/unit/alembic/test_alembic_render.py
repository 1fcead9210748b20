from __future__ import annotations

import pytest
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import _repr_type
from alembic.runtime.migration import MigrationContext
from sqlalchemy import LargeBinary, String
from sqlalchemy.types import TypeDecorator, UserDefinedType
from sqlmodel.sql.sqltypes import AutoString

from dotmac.database.alembic import render_item
from dotmac.database.models import EncryptedString, UTCDateTime


class Compressed(TypeDecorator[bytes]):
    impl = LargeBinary
    cache_ok = True


class Nested(TypeDecorator[bytes]):
    impl = Compressed
    cache_ok = True


class Vector(UserDefinedType[object]):
    cache_ok = True

    def get_col_spec(self) -> str:
        return "VECTOR"


def rendered(type_, dialect: str) -> tuple[str, set[str]]:
    options = {"sqlalchemy_module_prefix": "sa.", "user_module_prefix": None, "render_item": render_item}
    context = AutogenContext(MigrationContext.configure(dialect_name=dialect, opts=options), opts=options)
    return _repr_type(type_, context), context.imports


@pytest.mark.parametrize(
    ("type_", "dialect", "text"),
    [
        (UTCDateTime(), "postgresql", "sa.DateTime(timezone=True)"),
        (UTCDateTime(), "postgresql+asyncpg", "sa.DateTime(timezone=True)"),
        (UTCDateTime(), "sqlite", "sa.DateTime(timezone=True)"),
        (UTCDateTime(), "mysql", "mysql.DATETIME(fsp=6)"),
        (EncryptedString(keys=["a key"]), "postgresql", "sa.Text()"),
        (AutoString(length=30), "postgresql", "sa.String(length=30)"),
        (Compressed(), "postgresql", "sa.LargeBinary()"),
        (Nested(), "postgresql", "sa.LargeBinary()"),
        (String(5), "postgresql", "sa.String(length=5)"),
    ],
)
def test_a_decorated_type_is_written_as_what_it_is_stored_as(type_, dialect, text):
    assert rendered(type_, dialect)[0] == text


def test_a_dialects_type_comes_with_its_import():
    assert rendered(UTCDateTime(), "mysql")[1] == {"from sqlalchemy.dialects import mysql"}


def test_a_foreign_type_comes_with_its_import():
    assert rendered(Vector(), "postgresql") == (f"{__name__}.Vector()", {f"import {__name__}"})


def test_items_that_are_no_types_are_left_to_alembic():
    assert render_item("column", String(), None) is False
