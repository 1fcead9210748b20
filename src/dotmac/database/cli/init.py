"""``dotmac-db init NAME``: a new application, copied from the template and renamed."""

from __future__ import annotations

import keyword
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import click

from dotmac.database.cli._demo_template import PACKAGE, template_directory
from dotmac.database.cli._main import json_option, print_json
from dotmac.database.errors import ConfigurationError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
_MOST_CHARS = 50
# A package of one of these names would hide what the application imports.
_TAKEN = frozenset(
    {"alembic", "aiosqlite", "asyncpg", "click", "dotmac", "dotmac_database", "fastapi", "httpx", "pydantic"}
    | {"pydantic_settings", "pytest", "rich", "sqlalchemy", "sqlmodel", "starlette", "tests", "uvicorn"}
)
_LEFT_BEHIND = shutil.ignore_patterns("__pycache__", "*.pyc", ".env", ".venv", ".*_cache", "*.db", ".dotmac")


def _validated(_context: click.Context, _parameter: click.Parameter, name: str) -> str:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or len(name) > _MOST_CHARS:
        raise click.BadParameter(
            "it becomes a Python package: ASCII letters, digits and underscores, a letter first, no keyword, "
            f"at most {_MOST_CHARS} characters, as in 'my_shop'."
        )
    if name.lower() in _TAKEN or name in sys.stdlib_module_names:
        raise click.BadParameter(f"a package named {name!r} would hide another one of that name.")
    return name


@click.command("init")
@click.argument("name", callback=_validated)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to create it; by default a folder NAME here.",
)
@json_option
def command(*, name: str, directory: Path | None, as_json: bool) -> None:
    """Create the application NAME from the template.

    The folder must be new or empty. Prints what to do next.
    """
    target = (directory or Path(name)).absolute()
    if target.exists() and not target.is_dir():
        raise ConfigurationError(
            f"{target} is a file, and was not touched. Choose another folder with --directory."
        )
    if target.is_dir() and any(target.iterdir()):
        raise ConfigurationError(
            f"{target} is not empty, and nothing in it was touched. Choose another folder with --directory."
        )
    files = _create(name, target)
    if as_json:
        print_json({"name": name, "directory": str(target), "files": files})
        return
    click.echo(f"Created {name} in {target} ({files} files). Next:\n")
    click.echo(f"  cd {shlex.quote(str(target))}")
    click.echo("  python -m venv .venv && . .venv/bin/activate")
    click.echo("  pip install -e '.[dev]'")
    click.echo("  dotmac-db dev                    # in another terminal; or: docker compose up -d")
    click.echo("  cp .env.example .env             # and put its DATABASE_URL there")
    click.echo("  alembic upgrade head")
    click.echo(f"  uvicorn {name}.main:app --reload")
    click.echo("  pytest")


def _create(name: str, target: Path) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Made next to its place and moved there whole: an interrupted copy leaves no half application.
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as staging:
        copy = Path(staging) / "application"
        shutil.copytree(template_directory(), copy, ignore=_LEFT_BEHIND)
        (copy / PACKAGE).rename(copy / name)
        files = [path for path in copy.rglob("*") if path.is_file()]
        for path in files:
            path.write_text(_renamed(path.read_text(encoding="utf-8"), name), encoding="utf-8")
            path.rename(path.with_name(_renamed(path.name, name)))
        copy.rename(target)
    return len(files)


def _renamed(text: str, name: str) -> str:
    words = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    for old, new in ((PACKAGE, name), (PACKAGE.upper(), name.upper()), (PACKAGE.capitalize(), words)):
        text = text.replace(old, new)
    return text
