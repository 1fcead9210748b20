"""The guard holds whatever of the library is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Mapped, mapped_column, sessionmaker
from {home} import {names}

class Secret({base}):
    __tablename__ = "secrets"
    word: Mapped[str]

engine = create_engine("sqlite://")
Secret.metadata.create_all(engine)
try:
    sessionmaker(engine)().execute(select(Secret)).all()
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("home", "names", "base"),
    [
        ("dotmac.database", "TenantModel", "TenantModel"),
        ("dotmac.database", "BaseModel, TenantAwareMixin", "BaseModel, TenantAwareMixin"),
        ("dotmac.database.models", "TenantModel", "TenantModel"),
        ("dotmac_database", "TenantMixin, BaseModel", "BaseModel, TenantMixin"),
    ],
    ids=["TenantModel", "mixin", "models", "second name"],
)
def test_importing_a_model_is_enough(home, names, base):
    program = PROGRAM.format(home=home, names=names, base=base)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("MissingTenantError", "")


EARLIER = """
from sqlalchemy import Column, Integer, String, Table, create_engine, select, text
from sqlalchemy.orm import registry, sessionmaker

mapping = registry()
table = Table("secrets", mapping.metadata, Column("id", Integer, primary_key=True), Column("owner", String))

class Secret: ...

mapping.map_imperatively(Secret, table, properties={"tenant_id": table.c.owner})
engine = create_engine("sqlite://")
mapping.metadata.create_all(engine)

from dotmac.database import use_context

for statement in (select(Secret), select(table), text("SELECT * FROM secrets")):
    try:
        sessionmaker(engine)().execute(statement).all()
    except Exception as error:
        print(type(error).__name__)
"""


def test_models_that_were_mapped_before_are_guarded_too():
    done = subprocess.run([sys.executable, "-c", EARLIER], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["MissingTenantError"] * 3, "")
