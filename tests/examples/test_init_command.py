"""``dotmac-db init``: what it creates, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dotmac.database.cli._main import run


def test_the_new_application_has_its_own_name_everywhere(tmp_path, capsys):
    target = tmp_path / "deep" / "shop"
    assert run(["init", "my_shop", "--directory", str(target), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    files = [path for path in target.rglob("*") if path.is_file()]
    assert told == {"name": "my_shop", "directory": str(target), "files": len(files)}
    assert {"alembic.ini", "compose.yaml", "pyproject.toml", ".env.example", "my_shop", "tests"} <= {
        path.name for path in target.iterdir()
    }
    assert [path for path in files if "taskboard" in (path.name + path.read_text()).lower()] == []
    assert "class MyShopDatabase" in (target / "my_shop" / "database" / "connection.py").read_text()
    assert [path.name for path in target.parent.iterdir()] == ["shop"]


def test_what_is_said_to_do_next_can_be_pasted_where_the_path_holds_spaces(tmp_path, capsys):
    target = tmp_path / "my shop"
    assert run(["init", "shop", "--directory", str(target)]) == 0
    assert f"  cd '{target}'\n" in capsys.readouterr().out


def test_a_file_of_that_name_is_left_alone_and_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").write_text("mine")
    assert run(["init", "shop"]) == 1
    assert f"{tmp_path / 'shop'} is a file" in capsys.readouterr().err
    assert (tmp_path / "shop").read_text() == "mine"


def test_what_development_needs_is_an_extra_that_every_pip_can_install(tmp_path, capsys):
    assert run(["init", "shop", "--directory", str(tmp_path / "shop")]) == 0
    # The pip in a fresh environment of Python 3.11 to 3.13 knows no dependency groups.
    assert "pip install -e '.[dev]'" in capsys.readouterr().out
    project = tomllib.loads((tmp_path / "shop" / "pyproject.toml").read_text())["project"]
    assert any(requirement.startswith("pytest") for requirement in project["optional-dependencies"]["dev"])


def test_the_new_application_migrates_imports_and_passes_its_checks(tmp_path, dotmac_postgres):
    target, name = tmp_path / "shop", f"init_{os.getpid()}"
    assert run(["init", "shop", "--directory", str(target)]) == 0
    dotmac_postgres.create_database(name)
    environment = os.environ | {
        "DATABASE_URL": dotmac_postgres.url(name),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    (target / "tasks.csv").write_text("title,username\nOpen,newcomer\n")
    commands = [
        ["-m", "shop.pre_start"],
        ["-m", "alembic", "upgrade", "head"],
        ["-m", "alembic", "check"],
        ["-m", "alembic", "revision", "--autogenerate", "-m", "Nothing"],
        ["-m", "shop.import_tasks", "tasks.csv", "--tenant", "acme", "--create-users"],
        ["-c", "from shop.main import app; print(len(app.routes))"],
    ]
    try:
        for command in commands:
            done = subprocess.run(
                [sys.executable, *command],
                cwd=target,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
        ruff = subprocess.run(
            ["ruff", "check", "."], cwd=target, env=environment, capture_output=True, text=True, check=False
        )
        assert ruff.returncode == 0, ruff.stdout
    finally:
        dotmac_postgres.drop_database(name)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / "precious").write_text("data")
    assert run(["init", "shop", "--directory", str(tmp_path)]) == 1
    assert "is not empty, and nothing in it was touched" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_an_empty_folder_may_be_used(tmp_path):
    assert run(["init", "shop", "--directory", str(tmp_path)]) == 0
    assert (tmp_path / "shop" / "main.py").is_file()


@pytest.mark.parametrize(
    "name",
    ["", "9lives", "my-shop", "a b", "class", "../x", "büro", "_x", "x" * 51, "json", "fastapi", "DotMac"],
)
def test_a_name_that_cannot_be_a_package_is_refused(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["init", name]) == 2
    assert "Invalid value for 'NAME'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == []
