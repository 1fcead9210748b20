"""What the pages print works: Python runs, commands parse, extras and links exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
import uuid

import click
import pytest
from docs_pages import PAGES, ROOT, blocks

from dotmac.database.cli._main import cli

SECONDS = 120


def named(pages):
    return [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in pages]


@pytest.fixture
def environment(dotmac_postgres, redis_url):
    """A database of the page's own, in the variables that the library reads."""
    name = f"docs_{uuid.uuid4().hex[:12]}"
    dotmac_postgres.create_database(name)
    yield {
        **{key: value for key, value in os.environ.items() if not key.startswith(("DATABASE_", "DB_"))},
        "DATABASE_URL": dotmac_postgres.url(name),
        "ADMIN_DATABASE_URL": dotmac_postgres.url(name, role="admin"),
        "REDIS_URL": redis_url,
        "DB_ENCRYPTION_KEY": "a key for the pages",
    }
    dotmac_postgres.drop_database(name)


@pytest.mark.parametrize("page", named([page for page in PAGES if blocks(page, "python")]))
def test_a_pages_python_runs(page, environment, tmp_path):
    run = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "tests" / "docs" / "docs_pages.py", page],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"


def commands(page):
    """The command lines of the page that begin with ``dotmac-db``, without what a shell does with their output."""
    for block in blocks(page, "", "bash", "console", "sh", "shell"):
        for line in block.code.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|\||[;|]|\s>+\s|\s#", line.removeprefix("$ ")):
                if re.match(r"\s*dotmac-db\b", part):
                    yield shlex.split(part)[1:]


@pytest.mark.parametrize("page", named([page for page in PAGES if list(commands(page))]))
def test_a_pages_commands_parse(page):
    for words in commands(page):
        command, rest = cli, list(words)
        context = click.Context(cli, info_name="dotmac-db")
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            found = command.get_command(context, rest[0])
            assert found is not None, f"dotmac-db has no command {rest[0]!r}: dotmac-db {shlex.join(words)}"
            command = found
            context = click.Context(command, info_name=rest.pop(0), parent=context)
        try:
            command.make_context(command.name, [word for word in rest if word != "…"], parent=context.parent)
        except click.exceptions.Exit:  # --help and --version
            pass
        except click.UsageError as error:
            pytest.fail(f"dotmac-db {shlex.join(words)}: {error.format_message()}")


@pytest.mark.parametrize("page", named(PAGES))
def test_a_pages_extras_scripts_and_links_exist(page):
    text = page.read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for names in re.findall(r"dotmac-database\[([\w,]+)\]", text):
        assert set(names.split(",")) <= set(extras)
    for script in re.findall(r"(?<![\w/])scripts/(\w+)", text):
        assert (ROOT / "scripts" / script).is_file()
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target
