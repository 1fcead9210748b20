from __future__ import annotations

import pytest
from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase, registry
from sqlmodel import SQLModel

from dotmac.database.alembic._metadata import collect_metadata


class Base(DeclarativeBase):
    pass


mapper_registry = registry()
plain = MetaData()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, []),
        (plain, [plain]),
        (Base, [Base.metadata]),
        (mapper_registry, [mapper_registry.metadata]),
        (SQLModel, [SQLModel.metadata]),
        ([Base, mapper_registry, plain, Base.metadata], [Base.metadata, mapper_registry.metadata, plain]),
        ((part for part in (plain,)), [plain]),
    ],
)
def test_every_source_gives_its_metadata_once(source, expected):
    found = collect_metadata(source)
    assert list(map(id, found)) == list(map(id, expected))


@pytest.mark.parametrize("source", ["app.models:Base", object(), int, [Base, "Base"]])
def test_a_source_without_metadata_is_named(source):
    with pytest.raises(TypeError, match="has no metadata"):
        collect_metadata(source)
