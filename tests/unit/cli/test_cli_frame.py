"""How commands end: exit codes and one line, never a traceback."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from dotmac.database.cli import _main
from dotmac.database.errors import ConfigurationError


@pytest.fixture
def ends_with(monkeypatch, capsys):
    """Runs a command that raises; its exit status and what it wrote to standard error."""

    def run(error):
        def raising():
            raise error

        commands = {"broken": click.Command("broken", callback=raising)}
        monkeypatch.setattr(_main._LazyGroup, "get_command", lambda _self, _ctx, name: commands.get(name))
        return _main.run(["broken"]), capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ConfigurationError("No URL. Set DATABASE_URL."), 1, "Error: No URL. Set DATABASE_URL.\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (FileNotFoundError(2, "No such file", "x.csv"), 1, "Error: No such file: x.csv\n"),
        (ModuleNotFoundError(name="alembic.config"), 1, "install 'dotmac-database[alembic]'"),
        (ModuleNotFoundError(name="other"), 1, "Error: The module other is missing"),
        (RuntimeError("first line\nDETAIL: a row"), 1, "Error: RuntimeError: first line\n"),
        (click.UsageError("no such option"), 2, "no such option"),
        (click.exceptions.Exit(1), 1, ""),
    ],
)
def test_error_has_a_status_and_one_line(ends_with, error, status, message):
    ended, output = ends_with(error)
    assert ended == status
    assert message in output
    assert "Traceback" not in output
    assert "DETAIL" not in output


def test_unknown_command_is_wrong_usage(capsys):
    assert _main.run(["nonsense"]) == _main.EXIT_USAGE
    assert "No such command 'nonsense'" in capsys.readouterr().err


def test_help_names_every_command_and_imports_none():
    script = (
        "import sys\nfrom dotmac.database.cli._main import run\nrun(['--help'])\n"
        "print({'sqlalchemy', 'rich', 'alembic', 'dotmac.database.embedded'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert all(name in output for name in _main.COMMANDS)
    assert output.endswith("set()\n")


def test_table_shows_cells_whole_in_a_pipe(capsys):
    _main.print_table("title", ["name"], [["x" * 300], ["[not markup]"]])
    output = capsys.readouterr().out
    assert "x" * 300 in output
    assert "[not markup]" in output


def test_a_wait_of_no_number_is_refused(capsys):
    assert _main.run(["prestart", "--timeout", "nan"]) == 2
    assert "a number of seconds" in capsys.readouterr().err


def test_ctrl_c_while_the_command_line_is_loaded_is_no_traceback():
    code = (
        "import builtins, sys\n"
        "from dotmac.database.cli import main\n"
        "real = builtins.__import__\n"
        "def interrupted(name, *rest):\n"
        "    if name == 'dotmac.database.cli._main':\n"
        "        raise KeyboardInterrupt\n"
        "    return real(name, *rest)\n"
        "builtins.__import__ = interrupted\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")
