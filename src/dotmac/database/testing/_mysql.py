"""A database of one's own on a MySQL or MariaDB server that runs already."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import make_url, text

from dotmac.database._urls import render, sync_url
from dotmac.database.engine import create_engine

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def temporary_database(url: str) -> Iterator[str]:
    """``url`` with the name of a new, empty database, which is dropped afterwards.

    Workers of one run, and runs side by side, would otherwise wait for each other's metadata locks.
    """
    name = f"dotmac_{secrets.token_hex(6)}"
    administrator = make_url(url)
    engine = create_engine(render(sync_url(administrator)), pool_size=1)
    try:
        with engine.begin() as connection:
            connection.execute(text(f"CREATE DATABASE {name} CHARACTER SET utf8mb4"))
        try:
            yield render(administrator.set(database=name))
        finally:
            with engine.begin() as connection:
                connection.execute(text(f"DROP DATABASE {name}"))
    finally:
        engine.dispose()
