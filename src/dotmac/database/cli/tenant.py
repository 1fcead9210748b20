"""``dotmac-db tenant``: who the tenants are and where their rows live."""

from __future__ import annotations

import asyncio
import importlib
import sys
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from dotmac.database.cli._main import json_option, print_json, print_table
from dotmac.database.cli._server import url_option
from dotmac.database.errors import (
    QuotaExceededError,
    SchemaError,
    TenantExistsError,
    TenantNotFoundError,
    TenantSuspendedError,
    ValidationError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from dotmac.database.tenancy import Quotas, Tenant, TenantDirectory

_T = TypeVar("_T")

_STATUS_OF: dict[type[Exception], int] = {
    TenantNotFoundError: 3,
    TenantExistsError: 4,
    SchemaError: 5,
    ValidationError: 6,
    TenantSuspendedError: 7,
    QuotaExceededError: 7,
}
_COLUMNS = ("slug", "id", "mode", "connection", "schema", "role", "status", "quotas", "created")


class _RefusedError(click.ClickException):
    """One line, and an exit status of its own."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.exit_code = next(status for kind, status in _STATUS_OF.items() if isinstance(error, kind))  # type: ignore[misc]  # click declares it so


@click.group(
    "tenant",
    epilog="Exit status: 0 done, 1 failed, 2 wrong usage, 3 no such tenant, 4 it exists, 5 its schema or database "
    "cannot be made or dropped, 6 a name or value cannot be one, 130 interrupted.",
)
@url_option
@click.option(
    "--models",
    metavar="MODULE:NAME",
    help="The application's models, as app.models:Base, or MetaData: what new tenants get, and what is deleted.",
)
@click.option(
    "--migrations",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The Alembic directory.",
)
@click.option("--application-role", help="The role the application connects as; it gets rights on rows.")
@click.option(
    "--admin-schema", default="admin", show_default=True, help="The schema of the directory's table."
)
@click.option("--shared-schema", default="shared", show_default=True, help="The schema that tenants share.")
@click.option(
    "--row-level-security", is_flag=True, help="Policies in tenants' own schemas and databases as well."
)
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    r"""Create, list, suspend, rename and drop tenants.

    \b
    Examples:
      dotmac-db tenant init
      dotmac-db tenant --models app.models:Base create acme-inc --mode schema
      dotmac-db tenant list --json
      dotmac-db tenant suspend acme-inc
      dotmac-db tenant drop acme-inc --yes
    """
    context.obj = options


@command.command("init")
@click.pass_obj
def init(options: dict[str, Any]) -> None:
    """Make the directory's table and schemas; nothing happens where they are."""
    _run(options, lambda directory: directory.install())
    click.echo("The directory is ready.")


@command.command("list")
@click.option("--status", type=click.Choice(["active", "suspended", "incomplete"]), help="Only these.")
@json_option
@click.pass_obj
def list_tenants(options: dict[str, Any], *, status: Any, as_json: bool) -> None:
    """List tenants in order of their slugs."""
    _show(_run(options, lambda directory: directory.list(status=status)), as_json=as_json)


@command.command("show")
@click.argument("slug")
@json_option
@click.pass_obj
def show(options: dict[str, Any], *, slug: str, as_json: bool) -> None:
    """Show one tenant."""
    tenant = _run(options, lambda directory: directory.get_by_slug(slug))
    if as_json:
        print_json(_as_json(tenant))
    else:
        print_table(f"Tenant {slug}", ["", "value"], [*_as_json(tenant).items()])


@command.command("create")
@click.argument("slug")
@click.option(
    "--mode", type=click.Choice(["shared", "schema", "database"]), default="shared", show_default=True
)
@click.option("--id", "tenant_id", help="What rows call it; default: a new UUID.")
@click.option("--name", help="What it is called in full.")
@click.option("--connection", help="In mode database, the database's name; default: tenant_<slug>.")
@click.option("--schema", help="In mode schema; default: tenant_<slug>.")
@click.option("--role", is_flag=True, help="In mode schema: a database role of its own.")
@click.option(
    "--existing", is_flag=True, help="The schema or database is there already; it is never dropped."
)
@click.option("--rows", multiple=True, metavar="TABLE=N", help="Quota of rows; may be given several times.")
@click.option("--connections", type=click.IntRange(min=1), help="Quota of sessions at once in a process.")
@click.option("--statement-timeout", type=click.FloatRange(min=0.001), help="Quota in seconds.")
@json_option
@click.pass_obj
def create(
    options: dict[str, Any],
    /,
    *,
    slug: str,
    role: bool,
    existing: bool,
    rows: Sequence[str],
    connections: int | None,
    statement_timeout: float | None,
    as_json: bool,
    **arguments: Any,
) -> None:
    """Make a tenant and what its mode gives it."""
    quotas = _quotas(rows, connections, statement_timeout)

    async def make(directory: TenantDirectory) -> Tenant:
        if existing:
            return await directory.register(slug, quotas=quotas, **arguments)
        return await directory.create(slug, quotas=quotas, role=role, **arguments)

    _show([_run(options, make)], as_json=as_json)


@command.command("suspend")
@click.argument("slug")
@json_option
@click.pass_obj
def suspend(options: dict[str, Any], *, slug: str, as_json: bool) -> None:
    """Serve a tenant no more; running applications follow within seconds."""
    _show(
        [_run(options, _by_slug(slug, lambda directory, found: directory.suspend(found.id)))], as_json=as_json
    )


@command.command("resume")
@click.argument("slug")
@json_option
@click.pass_obj
def resume(options: dict[str, Any], *, slug: str, as_json: bool) -> None:
    """Serve a suspended tenant again."""
    _show(
        [_run(options, _by_slug(slug, lambda directory, found: directory.resume(found.id)))], as_json=as_json
    )


@command.command("rename")
@click.argument("slug")
@click.argument("new_slug")
@json_option
@click.pass_obj
def rename(options: dict[str, Any], *, slug: str, new_slug: str, as_json: bool) -> None:
    """Give a tenant another slug. Its id stays, and its schema or database, under its old name."""
    renamed = _run(options, _by_slug(slug, lambda directory, found: directory.rename(found.id, new_slug)))
    _show([renamed], as_json=as_json)
    if renamed.schema is not None and not as_json:
        click.echo(f"Its schema is still called {renamed.schema}.", err=True)


@command.command("drop")
@click.argument("slug")
@click.option("--yes", is_flag=True, help="Do not ask for the slug again; for scripts.")
@click.option("--keep-data", is_flag=True, help="Remove it from the directory alone.")
@json_option
@click.pass_obj
def drop(options: dict[str, Any], *, slug: str, yes: bool, keep_data: bool, as_json: bool) -> None:
    """Remove a tenant and its rows, schema or database.

    Asks for the slug once more. A schema or database that the directory did not make is left alone.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("There is nobody to ask. Confirm with --yes.")
        if click.prompt(f"This cannot be undone. Type {slug} to drop it", err=True) != slug:
            raise click.ClickException("That is another slug. Nothing was dropped.")
    dropped = _run(
        options,
        _by_slug(slug, lambda directory, found: directory.drop(found.id, confirm=slug, keep_data=keep_data)),
    )
    if as_json:
        print_json(_as_json(dropped))
    else:
        click.echo(f"Dropped {slug}.")


def _by_slug(
    slug: str, action: Callable[[TenantDirectory, Tenant], Awaitable[Tenant]]
) -> Callable[[TenantDirectory], Awaitable[Tenant]]:
    async def work(directory: TenantDirectory) -> Tenant:
        return await action(directory, await directory.get_by_slug(slug))

    return work


def _run(options: dict[str, Any], work: Callable[[TenantDirectory], Awaitable[_T]]) -> _T:
    async def whole() -> _T:
        async with _directory(options) as directory:
            return await work(directory)

    try:
        return asyncio.run(whole())
    except tuple(_STATUS_OF) as error:
        raise _RefusedError(error) from None


@asynccontextmanager
async def _directory(options: dict[str, Any]) -> AsyncIterator[TenantDirectory]:
    from dotmac.database.engine import AsyncDatabase  # noqa: PLC0415 - slow
    from dotmac.database.tenancy import DirectoryOptions, TenantDirectory  # noqa: PLC0415 - slow

    arguments = dict(options)
    url, models = arguments.pop("url"), arguments.pop("models")
    how = DirectoryOptions(metadata=None if models is None else _metadata(models), **arguments)
    async with AsyncDatabase(url) as database:
        yield TenantDirectory(database, how)


def _metadata(place: str) -> Any:
    from sqlalchemy import MetaData  # noqa: PLC0415 - slow

    module, _, name = place.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name or "Base")
    except (ImportError, AttributeError) as error:
        raise click.UsageError(f"--models {place}: {error}") from error
    found = getattr(found, "metadata", found)
    if not isinstance(found, MetaData):
        raise click.UsageError(f"--models {place}: neither models nor MetaData.")
    return found


def _quotas(rows: Sequence[str], connections: int | None, statement_timeout: float | None) -> Quotas:
    from dotmac.database.tenancy import Quotas  # noqa: PLC0415 - slow

    limits: dict[str, int] = {}
    for entry in rows:
        table, _, limit = entry.rpartition("=")
        if not table or not limit.isdecimal():
            _usage(f"--rows {entry}: write TABLE=N, as invoices=10000.")
        limits[table] = int(limit)
    timeout = None if statement_timeout is None else timedelta(seconds=statement_timeout)
    return Quotas(rows=limits, connections=connections, statement_timeout=timeout)


def _usage(message: str) -> NoReturn:
    raise click.UsageError(message)


def _as_json(tenant: Tenant) -> dict[str, Any]:
    return {
        "slug": tenant.slug,
        "id": tenant.id,
        "name": tenant.name,
        "mode": str(tenant.mode),
        "connection": tenant.connection,
        "schema": tenant.schema,
        "role": tenant.role,
        "status": str(tenant.status),
        "quotas": tenant.quotas.to_json(),
        "is_owned": tenant.is_owned,
        "created_at": None if tenant.created_at is None else tenant.created_at.isoformat(timespec="seconds"),
        "updated_at": None if tenant.updated_at is None else tenant.updated_at.isoformat(timespec="seconds"),
    }


def _show(tenants: Sequence[Tenant], *, as_json: bool) -> None:
    if as_json:
        documents = [_as_json(tenant) for tenant in tenants]
        print_json(documents)
        return
    rows = []
    for tenant in tenants:
        known = _as_json(tenant) | {
            "created": f"{tenant.created_at:%Y-%m-%d %H:%M}" if tenant.created_at else None
        }
        rows.append(["-" if known[column] in (None, {}) else known[column] for column in _COLUMNS])
    print_table("Tenants", _COLUMNS, rows)
