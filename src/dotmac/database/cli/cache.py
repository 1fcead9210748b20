"""``dotmac-db cache``: what is cached, emptying it, and filling it before it is asked."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from dotmac.database.cli._main import EXIT_FAILED, json_option, print_json, print_table
from dotmac.database.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

_COLUMNS = ("namespace", "tenant", "entries", "hits", "misses", "hit_rate", "stale", "errors")
_namespace_option = click.option("--namespace", help="Only the cache of this name.")
_tenant_option = click.option("--tenant", help="Only this tenant's entries.")
_prefix_option = click.option(
    "--prefix", default="dotmac", show_default=True, help="What the keys begin with."
)


@click.group("cache")
def command() -> None:
    """See, empty and fill the caches in the Redis that REDIS_URL names."""


@command.command("stats")
@_namespace_option
@_tenant_option
@_prefix_option
@json_option
def stats(*, namespace: str | None, tenant: str | None, prefix: str, as_json: bool) -> None:
    """Show how many entries each cache and tenant has, and what was counted.

    Processes tell their counts when get_stats() is called in them.
    """
    from dotmac.database.caching._overview import overview  # noqa: PLC0415 - slow

    reports = [report.as_mapping() for report in asyncio.run(overview(namespace, tenant, prefix=prefix))]
    if as_json:
        print_json({"caches": reports})
    else:
        rows = [
            ["" if report[column] is None else _shown(report[column]) for column in _COLUMNS]
            for report in reports
        ]
        print_table("Caches", _COLUMNS, rows)


@command.command("purge")
@click.option("--namespace", required=True, help="The cache to empty.")
@_tenant_option
@click.option("--all-tenants", is_flag=True, help="Every tenant's entries, and those of no tenant.")
@_prefix_option
@json_option
def purge(*, namespace: str, tenant: str | None, all_tenants: bool, prefix: str, as_json: bool) -> None:
    """Remove the entries of a cache: of no tenant, of one tenant, or of all."""
    if tenant is not None and all_tenants:
        raise click.UsageError("--tenant and --all-tenants exclude each other.")
    removed = asyncio.run(_purge(namespace, tenant, prefix, all_tenants=all_tenants))
    if as_json:
        print_json({"namespace": namespace, "removed": removed})
    else:
        click.echo(f"Removed {removed} entries.")


async def _purge(namespace: str, tenant: str | None, prefix: str, *, all_tenants: bool) -> int:
    from dotmac.database.caching import CachePolicy, SmartCache  # noqa: PLC0415 - slow
    from dotmac.database.caching._overview import overview, unavailable  # noqa: PLC0415 - slow

    cache = SmartCache(namespace, policy=CachePolicy(timeout_seconds=5), tenancy="shared", prefix=prefix)
    tenants = [tenant]
    if all_tenants:
        tenants = [report.tenant for report in await overview(namespace, prefix=prefix)]
    removed = 0
    for owner in tenants:
        space = cache if owner is None else cache.for_tenant(owner)
        removed += await space.purge()
        if space._space().counters.errors:  # noqa: SLF001 - get_stats() would write what was just removed
            raise unavailable(ConnectionError("purging was not confirmed"))
    return removed


@command.command("warm")
@click.argument("target", metavar="MODULE:FUNCTION")
@json_option
def warm(*, target: str, as_json: bool) -> int:
    """Run an application's function that warms a cache.

    FUNCTION is async, takes a progress callback, and returns what SmartCache.warm returns:

        async def warm_users(progress): return await users.warm(keys, load, progress=progress)

    Exits with 1 when a key could not be loaded.
    """
    function = _find(target)
    report: Any = asyncio.run(_with_progress(function, quiet=as_json))
    figures = {name: getattr(report, name) for name in ("total", "loaded", "present", "failed", "seconds")}
    if as_json:
        print_json({**figures, "is_leader": report.is_leader})
    elif not report.is_leader:
        click.echo("Another process is warming these keys.")
    else:
        click.echo(
            f"{report.loaded} loaded, {report.present} there already, {report.failed} failed of {report.total} keys, "
            f"in {report.seconds:.1f} s."
        )
    return EXIT_FAILED if report.failed else 0


def _find(target: str) -> Callable[..., Any]:
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise click.UsageError("The function is given as MODULE:FUNCTION, as in myapp.caches:warm_users.")
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as `python -m` does
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.startswith(error.name):
            raise ConfigurationError(f"There is no module {module_name!r} here or on PYTHONPATH.") from None
        raise
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigurationError(f"The module {module_name!r} has no function {name!r}.")
    return function  # type: ignore[no-any-return] # callable, as just looked


async def _with_progress(function: Callable[..., Any], *, quiet: bool) -> Any:
    if quiet:
        return await function(lambda _done, _total: None)
    from rich.console import Console  # noqa: PLC0415 - slow
    from rich.progress import Progress  # noqa: PLC0415 - slow

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Warming", total=None)
        return await function(lambda done, total: bar.update(task, completed=done, total=total))


def _shown(value: Any) -> str:
    return f"{value:.1%}" if isinstance(value, float) else str(value)
