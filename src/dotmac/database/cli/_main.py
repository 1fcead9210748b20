"""The frame of the command line: which commands there are, and how every one of them ends.

A command group is one module with a click command named ``command``; it is imported when it is used, so that
``dotmac-db --help`` stays fast and a missing extra concerns only the commands that need it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from dotmac.database.errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_WIDEST = 10_000

# name: (module, what `dotmac-db --help` says about it)
COMMANDS: dict[str, tuple[str, str]] = {
    "cache": ("dotmac.database.cli.cache", "See, empty and fill the caches in Redis."),
    "demo": ("dotmac.database.cli.demo", "Run the whole library on real servers and report."),
    "dev": ("dotmac.database.cli.dev", "Keep a PostgreSQL and a Valkey running for development."),
    "doctor": ("dotmac.database.cli.doctor", "Find ways from one tenant to another in a live database."),
    "init": ("dotmac.database.cli.init", "Create a new application from the template."),
    "prestart": ("dotmac.database.cli.prestart", "Wait until the database answers."),
    "roles": ("dotmac.database.cli.roles", "Set up the owner's, the application's and other roles."),
    "tenant": ("dotmac.database.cli.tenant", "Create, list, suspend, rename and drop tenants."),
}

# Modules whose absence means that an extra was not installed.
_EXTRAS = {
    "alembic": "alembic",
    "asyncmy": "mysql",
    "asyncpg": "asyncpg",
    "cryptography": "encryption",
    "fastapi": "fastapi",
    "httpx": "demo",
    "orjson": "redis",
    "psycopg": "pg",
    "redis": "redis",
    "rich": "cli",
    "sqlmodel": "sqlmodel",
    "uvicorn": "demo",
}

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in sorted(COMMANDS.items())])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dotmac-database")
def cli() -> None:
    """The multi-tenant database layer, from the command line."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. Errors become one line on standard error, never a traceback."""
    # The way of Ctrl-C for SIGTERM too: every `with` and `finally` runs.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcome = cli.main(args=arguments, prog_name="dotmac-db", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("Interrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone; Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - a command line shows no traceback
        print(f"Error: {_explain(error)}", file=sys.stderr)
        return EXIT_FAILED
    finally:
        signal.signal(signal.SIGTERM, before)
    return outcome if isinstance(outcome, int) else EXIT_OK


def print_json(data: Any) -> None:
    """Print ``data`` for programs: one JSON document, flushed."""
    print(json.dumps(data, indent=2, default=str), flush=True)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print ``rows`` for people; cells are never cut off, so that they can be copied."""
    from rich.console import Console  # noqa: PLC0415 - costs 50 ms that JSON output need not pay
    from rich.table import Table  # noqa: PLC0415 - same
    from rich.text import Text  # noqa: PLC0415 - same

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    # Measured, not fitted: rich would cut cells to the width of a terminal, or to 80 columns in a pipe.
    console = Console()
    needed = table.__rich_measure__(console, console.options.update_width(_WIDEST)).maximum
    Console(width=max(needed, 1)).print(table)
    sys.stdout.flush()


def _explain(error: Exception) -> str:
    if isinstance(error, DatabaseError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return _missing(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    # Of a driver's error only the first line: those after it may quote rows.
    text = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _missing(error: ModuleNotFoundError) -> str:
    top = (error.name or "").partition(".")[0]
    if top in _EXTRAS:
        return f"This command needs {top}: install 'dotmac-database[{_EXTRAS[top]}]'."
    return f"The module {error.name} is missing: install it, or check the installation."
