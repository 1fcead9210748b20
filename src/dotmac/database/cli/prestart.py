"""``dotmac-db prestart``: wait until the database answers, for the start of a container."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import click

from dotmac.database.cli._main import json_option, print_json

if TYPE_CHECKING:
    from dotmac.database.engine._ready import Attempt

_TIMEOUT_SECONDS = 300.0


def _validated(_context: click.Context, _parameter: click.Parameter, seconds: float) -> float:
    if math.isnan(seconds):  # greater than no time that has passed: it would wait for ever
        raise click.BadParameter("a number of seconds is wanted.")
    return seconds


@click.command("prestart")
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=_TIMEOUT_SECONDS,
    callback=_validated,
    show_default=True,
    help="Seconds to wait.",
)
@click.option("--quiet", is_flag=True, help="Say nothing about failed attempts.")
@json_option
def command(*, timeout_seconds: float, quiet: bool, as_json: bool) -> None:
    """Wait until the database answers a query.

    The database is the one that DATABASE_URL and its family name. Exits with 0 when it answers; with 1 when it did not
    in time, or at once when waiting cannot help (a wrong password, an unknown database).
    """
    from dotmac.database.engine import wait_until_ready  # noqa: PLC0415 - slow
    from dotmac.database.settings import DatabaseSettings  # noqa: PLC0415 - slow

    attempts = 1

    def progress(attempt: Attempt) -> None:
        nonlocal attempts
        attempts = attempt.number + 1
        if not quiet:
            click.echo(
                f"Attempt {attempt.number}: {attempt.reason} after {attempt.waited_seconds:.1f} s; "
                f"again in {attempt.next_in_seconds:.1f} s",
                err=True,
            )

    settings = DatabaseSettings()
    asyncio.run(wait_until_ready(settings, timeout_seconds=timeout_seconds, progress=progress))
    if as_json:
        print_json({"ready": True, "attempts": attempts})
    else:
        click.echo("The database is ready.")
