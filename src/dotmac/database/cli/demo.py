"""``dotmac-db demo``: the whole library on real servers, driven over HTTP and checked, in well under a minute."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

import click

from dotmac.database.cli._demo_report import ModesTable, Report, StepResult
from dotmac.database.cli._demo_template import PACKAGE, importable_template
from dotmac.database.cli._main import EXIT_FAILED, EXIT_OK, json_option, print_json
from dotmac.database.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dotmac.database.cli._demo_server import ApiServer
    from dotmac.database.embedded import EmbeddedPostgres, EmbeddedValkey

_TENANT, _USER = "acme", "demo-client"
_WATCH_SECONDS = 1.0
_REQUEST_SECONDS = 30.0
# Whatever the shell says about other databases must not reach this one.
_FOREIGN_SETTINGS = ("DATABASE_", "DB_", "POSTGRES_", "SQLALCHEMY_", "SQL_ECHO", "ADMIN_DATABASE_URL",
                     "MIGRATION_DATABASE_URL", "REDIS_", "TASKBOARD_")  # fmt: skip


@click.command("demo")
@click.option("--serve", is_flag=True, help="Leave the API up, with its data, until Ctrl-C.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the API; a free one by default.")
@json_option
def command(*, serve: bool, port: int | None, as_json: bool) -> int:
    """Run the whole library on real servers and report.

    Starts PostgreSQL and Valkey, migrates the taskboard, gives three tenants 100,000 tasks, and drives the API as a
    client would. Then one tenant in each isolation mode runs the same code and attacks its neighbour. Exits with 0 only
    if everything held.
    """
    import httpx  # noqa: PLC0415 - an extra, named when it is missing

    from dotmac.database.cli._demo_checks import ApiChecks  # noqa: PLC0415 - slow
    from dotmac.database.cli._demo_server import ApiServer  # noqa: PLC0415 - slow, and needs an extra
    from dotmac.database.embedded import EmbeddedPostgres, EmbeddedValkey  # noqa: PLC0415 - slow

    show = (lambda _: None) if as_json else _print_step
    template, report = importable_template(), Report(show)
    postgres, valkey = EmbeddedPostgres(), EmbeddedValkey(tcp=True)
    with contextlib.ExitStack() as running:
        server = running.enter_context(ApiServer(port))  # first: a port that is taken is soon told
        report.run("Start the servers", lambda: _start(running, postgres, valkey))
        running.enter_context(_settings(DATABASE_URL=postgres.url(), REDIS_URL=valkey.tcp_url))
        report.run("Migrate", lambda: _migrate(template, postgres))
        report.run("Load", lambda: _load(postgres))
        report.run("Start the API", lambda: _serve(server, postgres))
        headers = {"X-Tenant-ID": _TENANT, "X-User-ID": _USER}
        with httpx.Client(
            base_url=server.url, headers=headers, trust_env=False, timeout=_REQUEST_SECONDS
        ) as client:
            checks = ApiChecks(client)
            for name, action in checks.steps():
                if not report.run(name, action):
                    break
        report.run("Compare isolation modes", lambda: _compare(report, postgres))
        urls = {
            "api": server.url,
            "docs": f"{server.url}/docs",
            "postgres": postgres.url(),
            "valkey": valkey.tcp_url,
        }
        _conclude(report, urls if serve else None, as_json=as_json)
        if report.failures:
            return EXIT_FAILED
        if serve:
            _wait(server, postgres, valkey)
    return EXIT_OK


def _start(running: contextlib.ExitStack, postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> str:
    running.enter_context(postgres)
    running.enter_context(valkey)
    [[version]] = postgres.address.execute("SHOW server_version")
    return f"PostgreSQL {version} and Valkey, private to this process"


@contextlib.contextmanager
def _settings(**variables: str) -> Iterator[None]:
    before = dict(os.environ)
    for name in before:
        if name.startswith(_FOREIGN_SETTINGS):
            del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _migrate(template: Path, postgres: EmbeddedPostgres) -> str:
    from dotmac.database.alembic import current, upgrade  # noqa: PLC0415 - slow, and an extra

    migrations = template / PACKAGE / "database" / "migrations"
    upgrade(migrations, url=postgres.url())
    return f"users and tasks, revision {', '.join(current(migrations, url=postgres.url()))}"


def _load(postgres: EmbeddedPostgres) -> str:
    from dotmac.database.cli._demo_data import TENANTS, seed  # noqa: PLC0415 - slow
    from dotmac.database.engine import AsyncDatabase  # noqa: PLC0415 - slow

    begun = time.perf_counter()
    # As the administrator: row-level security refuses COPY to everybody else.
    asyncio.run(seed(AsyncDatabase(postgres.url(role="admin"))))
    rows, seconds = sum(TENANTS.values()), time.perf_counter() - begun
    postgres.address.execute("ANALYZE", "app")
    return f"{rows:,} tasks of {len(TENANTS)} tenants, {rows / seconds:,.0f} a second"


def _serve(server: ApiServer, postgres: EmbeddedPostgres) -> str:
    from taskboard.api import create_app  # type: ignore[import-not-found] # noqa: PLC0415 - the template's package

    from dotmac.database.engine import AsyncDatabase  # noqa: PLC0415 - slow

    server.serve(create_app(AsyncDatabase(postgres.url())))
    return server.url


def _compare(report: Report, postgres: EmbeddedPostgres) -> str:
    from dotmac.database.cli._demo_modes import MODES, compare_modes  # noqa: PLC0415 - slow

    report.modes = ModesTable(MODES)
    return compare_modes(postgres, report.modes)


def _print_modes(modes: ModesTable) -> None:
    from rich.console import Console  # noqa: PLC0415 - costs 50 ms that JSON output need not pay
    from rich.table import Table  # noqa: PLC0415 - same
    from rich.text import Text  # noqa: PLC0415 - same

    table = Table(title="The same code, by where a tenant's rows live", title_justify="left")
    table.add_column("step", no_wrap=True)
    for mode in modes.modes:
        table.add_column(mode)
    for step, cells in modes.rows.items():
        shown = [cells[mode] for mode in modes.modes if mode in cells]
        table.add_row(step, *(Text(cell.seen, style="" if cell.holds else "bold red") for cell in shown))
    Console().print(table)


def _print_step(step: StepResult) -> None:
    mark = click.style("ok  ", fg="green") if step.failure is None else click.style("FAIL", fg="red")
    click.echo(f"{mark} {step.seconds:7.2f} s  {step.name:<27} {step.failure or step.detail}")


def _conclude(report: Report, urls: dict[str, str] | None, *, as_json: bool) -> None:
    failures = report.failures
    if as_json:
        print_json(report.as_dict() | ({"urls": urls} if urls else {}))
    else:
        if report.modes is not None:
            _print_modes(report.modes)
        held = len(report.steps) - len(failures)
        click.echo(f"{held} of {len(report.steps)} steps held, {report.seconds:.1f} s in all.")
    if failures:
        click.echo(f"Error: {failures[0].name}: {failures[0].failure}", err=True)
    elif urls and not as_json:
        click.echo("\n" + "\n".join(f"{name:<9} {url}" for name, url in urls.items()))
        click.echo(f"\ncurl -H 'X-Tenant-ID: {_TENANT}' '{urls['api']}/tasks?status=PENDING&per_page=3'")
        click.echo("Running; Ctrl-C stops everything.")


def _wait(*servers: Any) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            for server in servers:
                if not server.is_running:
                    raise EmbeddedServerError(f"{server.name} ended by itself.")
            time.sleep(_WATCH_SECONDS)
