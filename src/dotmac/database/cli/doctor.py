"""``dotmac-db doctor``: what would let one tenant see another's rows, and the SQL that mends it."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from dotmac.database.cli._main import json_option, print_json
from dotmac.database.cli._server import on_server, url_option

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

    from dotmac.database.tenancy.doctor import Finding

EXIT_WARNINGS = 3
EXIT_ERRORS = 4
_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


@click.command("doctor")
@url_option
@click.option(
    "--metadata", metavar="MODULE:NAME", help="Compare with models: a declarative base or MetaData."
)
@click.option(
    "--role",
    "roles",
    multiple=True,
    help="What the application logs in as; default: the user of DATABASE_URL.",
)
@click.option("--tenant-column", default="tenant_id", show_default=True, help="Says whose a row is.")
@click.option("--tenant-schemas", default="tenant_*", show_default=True, help="Schemas of one tenant each.")
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning", "info", "never"]),
    default="error",
    show_default=True,
    help="The least severity for which the command fails.",
)
@click.option("--ignore", multiple=True, metavar="CODE", help="Leave out findings of this kind.")
@json_option
def command(
    *,
    url: str | None,
    metadata: str | None,
    roles: tuple[str, ...],
    tenant_column: str,
    tenant_schemas: str,
    fail_on: str,
    ignore: tuple[str, ...],
    as_json: bool,
) -> int:
    """Examine a live database for ways from one tenant to another.

    Changes nothing. Exits with 0 when nothing of the chosen severity was found, with 4 for errors, 3 for warnings and
    information; 1 means that it could not examine.
    """
    from dotmac.database.tenancy.doctor import Severity, examine  # noqa: PLC0415 - slow

    models = None if metadata is None else _metadata(metadata)
    asked = roles or _application_role(url)

    def work(connection: Connection) -> list[Finding]:
        return examine(
            connection, models, roles=asked, tenant_column=tenant_column, tenant_schemas=tenant_schemas
        )

    findings = [finding for finding in on_server(url, work) if finding.code not in ignore]
    if as_json:
        print_json({"findings": [finding.to_dict() for finding in findings]})
    else:
        _show(findings)
    if fail_on == "never" or not findings:
        return 0
    worst = max(finding.severity for finding in findings)
    if worst < Severity[fail_on.upper()]:
        return 0
    return EXIT_ERRORS if worst is Severity.ERROR else EXIT_WARNINGS


def _application_role(url: str | None) -> tuple[str, ...]:
    """The user of DATABASE_URL, where the examination itself is made as somebody else."""
    if url is None or not (os.environ.get("DATABASE_URL") or os.environ.get("DATABASE_USER")):
        return ()
    from dotmac.database.settings import DatabaseSettings  # noqa: PLC0415 - slow

    settings = DatabaseSettings()
    same = DatabaseSettings(url=url).drivername.partition("+")[0] == settings.drivername.partition("+")[0]
    return (settings.user,) if same and settings.drivername.startswith("postgresql") and settings.user else ()


def _metadata(path: str) -> MetaData:
    from sqlalchemy import MetaData  # noqa: PLC0415 - slow

    module, _, names = path.partition(":")
    try:
        found: Any = import_module(module)
        for name in (names or "Base").split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise click.UsageError(f"--metadata {path}: {error}") from None
    metadata = found if isinstance(found, MetaData) else getattr(found, "metadata", None)
    if not isinstance(metadata, MetaData):
        raise click.UsageError(f"--metadata {path}: that has no metadata.")
    return metadata


def _show(findings: list[Finding]) -> None:
    from rich.console import Console  # noqa: PLC0415 - costs 50 ms that JSON output need not pay
    from rich.table import Table  # noqa: PLC0415 - same
    from rich.text import Text  # noqa: PLC0415 - same

    if not findings:
        click.echo("Nothing was found.")
        return
    table = Table(title=f"{len(findings)} findings", title_justify="left", show_lines=True)
    for column in ("severity", "finding", "object", "why"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        severity = finding.severity.name.lower()
        table.add_row(
            Text(severity, _STYLES[severity]), finding.code, Text(finding.object), Text(finding.why)
        )
    Console().print(table)
    click.echo("-- The SQL that mends them; read it before you run it:")
    for finding in findings:
        if finding.sql:
            click.echo(f"\n-- {finding.code}: {finding.object}")
            for statement in finding.sql:
                click.echo(f"{statement};")
