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
