"""Every import that the migration guide promises works, and none that works is called missing."""

from __future__ import annotations

import re
from importlib import import_module

import pytest
from docs_pages import ROOT

GUIDE = ROOT / "MIGRATION.md"
IMPORT = re.compile(r"^`from (?P<module>[\w.]+) import (?P<names>[\w, ]+)`$")
MISSING = "not yet"


def rows():
    for line in GUIDE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[1].startswith("`"):
            match = IMPORT.match(cells[1])
            assert match, line
            assert IMPORT.match(cells[0]), line
            names = [name.strip() for name in match["names"].split(",")]
            yield match["module"], names, cells[2] == MISSING


def exists(module, name):
    try:
        return hasattr(import_module(module), name)
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize(("module", "names", "is_missing"), list(rows()))
def test_the_new_import_is_as_the_guide_says(module, names, is_missing):
    found = {name for name in names if exists(module, name)}
    if is_missing:
        assert not found, f"{GUIDE.name} calls {sorted(found)} missing: say what differs instead."
    else:
        assert found == set(names)


def test_there_is_a_table_for_each_of_five_layers():
    assert GUIDE.read_text().count("\n| old | new | what differs |\n") == 5
    assert len(list(rows())) > 30
