"""The server that an administrative command talks to: one blocking connection, over whichever driver is installed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

_T = TypeVar("_T")

url_option = click.option(
    "--url",
    envvar="ADMIN_DATABASE_URL",
    show_envvar=True,
    help="The database; default: what DATABASE_URL and its family name.",
)


def on_server(url: str | None, work: Callable[[Connection], _T]) -> _T:
    """What ``work`` returns, given a connection to ``url``; you commit in it."""
    from sqlalchemy.pool import NullPool  # noqa: PLC0415 - slow

    from dotmac.database.engine import create_async_engine  # noqa: PLC0415 - slow

    async def run() -> _T:
        engine = create_async_engine(url, poolclass=NullPool)
        try:
            async with engine.connect() as connection:
                return await connection.run_sync(work)
        finally:
            await engine.dispose()

    return asyncio.run(run())
