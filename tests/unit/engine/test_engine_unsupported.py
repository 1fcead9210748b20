"""A database that the library does not know is refused by name, and nothing of its URL is shown."""

from __future__ import annotations

import pytest

from dotmac.database import create_async_engine, create_engine
from dotmac.database.errors import ConfigurationError


@pytest.mark.parametrize("create", [create_engine, create_async_engine])
@pytest.mark.parametrize("scheme", ["foo", "oracle", "mssql+pyodbc"])
def test_an_unknown_database_is_refused_by_name(create, scheme):
    with pytest.raises(ConfigurationError, match="not supported") as refused:
        create(f"{scheme}://user:hush@host/name")
    assert "hush" not in str(refused.value)
    assert "postgresql" in str(refused.value)
