"""Migrations and models say the same, on every database the application may run on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dotmac.database.alembic import check, current, downgrade, upgrade

import taskboard

MIGRATIONS = Path(taskboard.__file__).parent / "database" / "migrations"


def test_autogenerate_finds_no_difference_on_postgresql(database_url: str) -> None:
    check(MIGRATIONS, url=database_url)


@pytest.mark.parametrize("driver", ["asyncpg", "sqlite"])
def test_migrations_go_down_and_up_again(driver: str, tmp_path: Path, dotmac_postgres: Any) -> None:
    name = "taskboard_up_and_down"
    if driver == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path}/taskboard.db"
    else:
        dotmac_postgres.create_database(name)
        url = dotmac_postgres.url(name)
    try:
        upgrade(MIGRATIONS, url=url)
        check(MIGRATIONS, url=url)
        downgrade(MIGRATIONS, "base", url=url)
        assert current(MIGRATIONS, url=url) == ()
        upgrade(MIGRATIONS, url=url)
        assert current(MIGRATIONS, url=url) == ("0002",)
    finally:
        if driver != "sqlite":
            dotmac_postgres.drop_database(name)
