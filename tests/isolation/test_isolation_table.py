"""The page's table of attacks is the suite's: every number is tried, and the layers it names are those that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from dotmac.database.testing.isolation import ATTACKS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "isolation.md").read_text()
ROWS = {
    int(number): {layer.strip() for layer in layers.split(",")}
    for number, layers in re.findall(r"^\| (\d+) \| .* \| ([^|]+) \|$", PAGE, re.MULTILINE)
}
LAYERS = set(re.findall(r"^\| ([\w -]+) \| [^|]+ \| [^|]+ \|$", PAGE, re.MULTILINE)) - {"layer", "#"}

# What other rooms' own tests try.
ELSEWHERE = {
    29: ("tests/integration/test_caching_values.py", "test_tenants_do_not_see_each_other"),
    54: ("tests/integration/test_locks_postgres.py", "test_tenants_do_not_meet_unless_the_name_is_shared"),
    59: ("tests/integration/test_directory.py", "test_a_schema_that_exists_is_never_taken_over"),
}


def numbers_in(path):
    """Numbers that begin the name of a test or of one of its cases."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from map(int, re.findall(r"^test_(\d\d)_", node.name))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from map(int, re.findall(r"^(\d\d)[- ]", node.value))


TRIED = {attack.number for attack in ATTACKS}
NAMED = {number for path in (ROOT / "tests" / "isolation").glob("test_*.py") for number in numbers_in(path)}
EXAMINED = set(numbers_in(ROOT / "tests" / "integration" / "test_doctor.py"))


def test_there_are_sixty():
    assert list(ROWS) == list(range(1, 61))


@pytest.mark.parametrize("number", range(1, 61))
def test_the_attack_is_tried(number):
    if number in ELSEWHERE:
        path, name = ELSEWHERE[number]
        assert f"def {name}(" in (ROOT / path).read_text()
    else:
        assert number in TRIED | NAMED


@pytest.mark.parametrize("number", range(1, 61))
def test_the_layers_are_those_that_are_tested(number):
    layers = ROWS[number]
    assert layers <= LAYERS
    if "guard" in layers:
        assert number in TRIED | NAMED
    if "doctor" in layers:
        assert number in EXAMINED | NAMED
    if number in TRIED:
        assert layers & {"guard", "keys", "context"}
