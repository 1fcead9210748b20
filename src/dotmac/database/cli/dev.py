"""``dotmac-db dev``: a PostgreSQL and a Valkey for development, kept running until Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from dotmac.database.cli._main import json_option, print_json, print_table
from dotmac.database.embedded import EmbeddedPostgres, EmbeddedValkey
from dotmac.database.embedded._failures import DirectoryInUseError
from dotmac.database.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dotmac.database.embedded._postgres import Version

_URLS = "urls.json"
_WATCH_SECONDS = 1.0


@click.command("dev")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".dotmac"),
    show_default=True,
    help="Where the data stays between runs.",
)
@click.option(
    "--pg-version",
    type=click.Choice(["18", "17", "system"]),
    default="18",
    show_default=True,
    help="PostgreSQL to run.",
)
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port of PostgreSQL; a free one, kept, by default."
)
@click.option(
    "--valkey-port", type=click.IntRange(1, 65535), help="Port of Valkey; a free one, kept, by default."
)
@click.option("--env", "as_env", is_flag=True, help="Print NAME=value lines, as for an .env file.")
@json_option
def command(
    *,
    directory: Path,
    pg_version: str,
    port: int | None,
    valkey_port: int | None,
    as_env: bool,
    as_json: bool,
) -> None:
    """Keep a PostgreSQL and a Valkey running for development.

    Prints their URLs, with passwords, and runs until Ctrl-C. Called again in the same folder meanwhile, it prints the
    URLs of the servers that run and ends.
    """
    postgres = EmbeddedPostgres(cast("Version", pg_version), directory=directory / "postgres", port=port)
    valkey = EmbeddedValkey(directory / "valkey", port=valkey_port, tcp=True)
    _make_private(directory)
    try:
        with _stop_requested() as stop, postgres, valkey:
            urls = {
                "DATABASE_URL": postgres.url(),
                "ADMIN_DATABASE_URL": postgres.url(role="admin"),
                "REDIS_URL": valkey.tcp_url,
            }
            with _published(directory / _URLS, urls):
                _show(urls, as_env=as_env, as_json=as_json)
                if not (as_env or as_json):
                    click.echo("Running; Ctrl-C stops both.")
                _wait(stop, postgres, valkey)
    except DirectoryInUseError:
        try:
            urls = json.loads((directory / _URLS).read_text())
        except (OSError, ValueError):
            urls = None
        if urls is None:
            raise
        click.echo("Already running; these are its URLs.", err=True)
        _show(urls, as_env=as_env, as_json=as_json)


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The data and passwords of a laptop have no place in a repository.
    (directory / ".gitignore").write_text("*\n")


@contextlib.contextmanager
def _stop_requested() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set: here they are the ordinary end, not an interruption."""
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _published(path: Path, urls: dict[str, str]) -> Iterator[None]:
    path.touch(mode=0o600)
    path.write_text(json.dumps(urls))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _show(urls: dict[str, str], *, as_env: bool, as_json: bool) -> None:
    if as_json:
        print_json(urls)
    elif as_env:
        click.echo("\n".join(f"{name}={url}" for name, url in urls.items()))
    else:
        print_table("Development servers", ["variable", "value"], list(urls.items()))


def _wait(stop: threading.Event, *servers: Any) -> None:
    while not stop.wait(_WATCH_SECONDS):
        for server in servers:
            if not server.is_running:
                raise EmbeddedServerError(f"{server.name} ended by itself; see server.log in its directory.")
